"""One shard under one attack run: attack, verify, predict again, measure. The attack's own opinion plays no part.

Success is a fresh float32 eval-mode prediction of the deployed model on the returned images. Budget, range, shape,
finiteness and an unchanged model are verified for every image; where any of them fails, the shard is refused.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from harness.context import AttackContext, isolated
from harness.errors import HarnessError
from harness.ops import misclassified, rows
from harness.oracle import Oracle, fingerprint
from harness.types import Attack, Cell, Result, ThreatKind, ThreatModel, Value

if TYPE_CHECKING:
    from harness.types import Flags, Images, Labels, Logits

JUDGE_REVISION = 1
"""Raised whenever the same images would be judged differently."""

CANARIES = 8


class Refused(HarnessError):
    """A shard whose images or model failed verification; `reasons` counts the images for each reason."""

    def __init__(self, reasons: Mapping[str, int], n: int) -> None:
        self.reasons = dict(reasons)
        super().__init__("; ".join(f"{reason}: {count} of {n} images" for reason, count in self.reasons.items()))


class BrokenModel(HarnessError):
    """A deployed model that does not answer finite logits of the right shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Images of some positions of the fixed order, with their indices in the split."""

    start: int
    stop: int
    examples: tuple[int, ...]
    x: Images
    y: Labels
    data_sha256: str


@dataclass(slots=True, kw_only=True)
class Measurement:
    """One cell on one shard. Strings hold one character for each image, 1 for yes.

    `clean`: right on the clean image. `raw`: right on the one returned image, wherever it lies. `last`: broken by the
    final image, inside the threat model. `any`: broken by the final or any other reported image inside it.
    """

    n: int
    clean: str
    raw: str
    last: str
    any: str
    distances: list[float] | None
    forwards: int
    backwards: int
    flags: dict[str, float] = field(default_factory=dict)


class Judge:
    """The deployed model as verdicts use it: never handed to an attack; clean predictions computed once for a shard."""

    def __init__(self, model: nn.Module, classes: int) -> None:
        self.model = model.eval().requires_grad_(False)
        self.classes = classes
        self._clean: dict[tuple[int, int], Flags] = {}

    def logits(self, x: Images) -> Logits:
        """Predict in float32 and check what comes back.

        Raises:
            BrokenModel: for logits of another shape or kind, or that are not finite.
        """
        with torch.no_grad():
            logits: Logits = self.model(x)
        if not isinstance(logits, torch.Tensor) or not logits.is_floating_point():
            raise BrokenModel(f"the model answers {type(logits).__name__}, not floating-point logits")
        if logits.shape != (len(x), self.classes):
            raise BrokenModel(f"the model answers {tuple(logits.shape)} for {len(x)} images and {self.classes} classes")
        if not torch.isfinite(logits).all():
            raise BrokenModel("nonfinite-logits: the model answers NaN or infinity")
        return logits

    def broken(self, x: Images, y: Labels, batch: int) -> Flags:
        """Whether each image is misclassified, predicted in batches of a fixed size."""
        return torch.cat(
            [misclassified(self.logits(x[i : i + batch]), y[i : i + batch]) for i in range(0, len(x), batch)]
        )

    def clean(self, shard: Shard, batch: int) -> Flags:
        """Whether each clean image of the shard is classified correctly."""
        key = (shard.start, shard.stop)
        if key not in self._clean:
            self._clean[key] = ~self.broken(shard.x, shard.y, batch)
        return self._clean[key]

    def is_random(self, x: Images) -> bool:
        """Whether two passes over the same images differ by more than 1e-4 of the largest logit."""
        first, second = self.logits(x), self.logits(x)
        return bool((first - second).abs().max() > 1e-4 * first.abs().max().clamp_min(1e-12))


def evaluate(
    judge: Judge, shard: Shard, attack: Attack, cells: Sequence[Cell], kind: ThreatKind, batch: int
) -> tuple[list[Measurement | Refused], str]:
    """Attack one shard once for cells that differ in the prefix parameter only, and judge every one of them.

    Returns:
        For each cell a measurement, or why it was refused; and what the attack printed.
    """
    prefix = attack.prefix if attack.prefix in cells[0].params else None
    wanted = [int(str(cell.params[prefix])) if prefix else 0 for cell in cells]
    longest = max(wanted)
    pieces: list[list[_Piece]] = [[] for _ in cells]
    printed = []
    for start in range(0, len(shard.x), batch):
        part = slice(start, start + batch)
        x, y = shard.x[part], shard.y[part]
        oracle = Oracle(judge.model, attack.access)
        ctx = AttackContext(
            oracle, x, seed=cells[0].seed, data_sha256=shard.data_sha256, examples=shard.examples[part],
            steps_wanted=sorted(set(wanted)) if prefix else (),
        )  # fmt: skip
        before, judged_by = oracle.fingerprint(), fingerprint(judge.model)
        params = {**cells[0].params, prefix: longest} if prefix else cells[0].params
        returned, output = run_attack(attack, oracle, x, y, cells[0].threat, ctx, params)
        printed.append(output)
        if fingerprint(judge.model) != judged_by:
            raise BrokenModel("the attack reached the model that verdicts use; nothing after it can be trusted")
        changed = _tampering(oracle, judge, x, before)
        for cell, steps, examined in zip(cells, wanted, pieces, strict=True):
            result = pick(attack, returned, steps, longest, prefix)
            cost = ctx.costs.get(steps, (oracle.forwards, oracle.backwards))
            # A random defense draws from here, so that its verdicts do not depend on what ran before.
            with isolated("judge", cell.seed, shard.data_sha256, ctx.examples[0]):
                examined.append(_examine(judge, x, y, result, cell, kind, attack.minimal, cost, changed))
    with isolated("judge", "clean", shard.data_sha256, shard.examples[0]):
        clean = judge.clean(shard, batch)
    return [_join(examined, clean) for examined in pieces], "".join(printed)


def run_attack(
    attack: Attack, oracle: Oracle, x: Images, y: Labels, threat: ThreatModel, ctx: AttackContext,
    params: Mapping[str, Value],
) -> tuple[Any, str]:  # fmt: skip
    """Call an attack on copies of its inputs, in isolation; returns what it returned and what it printed."""
    run = getattr(attack.run, "resolve", lambda: attack.run)()
    arguments: dict[str, Any] = {k: float(v) if isinstance(v, Fraction) else v for k, v in params.items()}
    accepted = inspect.signature(run).parameters.values()
    if any(p.name == "ctx" or p.kind is p.VAR_KEYWORD for p in accepted):
        arguments["ctx"] = ctx
    with isolated("attack", ctx.seed, ctx.data_sha256, ctx.examples[0]) as output:
        returned = run(oracle, x.clone(), y.clone(), threat, **arguments)
    return returned, output.getvalue()


@dataclass(slots=True, kw_only=True)
class _Piece:
    """One batch of one cell: what was seen of every image, and the reasons to refuse it."""

    raw: Flags
    last: Flags
    any: Flags
    distances: torch.Tensor | None
    cost: tuple[int, int]
    false_claims: int
    reasons: Counter[str]


def _tampering(oracle: Oracle, judge: Judge, x: Images, before: dict[str, str]) -> list[str]:
    """The parts of its copy of the network that the attack changed."""
    found = [f"modified the model ({part})" for part, value in oracle.fingerprint().items() if value != before[part]]
    if not found:
        with torch.no_grad():
            answers = oracle._network()(x[:CANARIES])
        if not torch.equal(answers, judge.logits(x[:CANARIES])) and not judge.is_random(x[:CANARIES]):
            found.append("modified the model (behaviour)")
    return found


def pick(attack: Attack, returned: Any, steps: int, longest: int, prefix: str | None) -> Result:
    """The result for one prefix length, with plain images wrapped.

    Raises:
        HarnessError: where the attack returned something else, or no snapshot for it.
    """
    result = Result(last=returned) if isinstance(returned, torch.Tensor) else returned
    if not isinstance(result, Result):
        raise HarnessError(f"attack '{attack.name}' returned {type(returned).__name__}; return images or a Result")
    if prefix is None or (steps == longest and steps not in (result.snapshots or {})):
        return result
    if result.snapshots is None or steps not in result.snapshots:
        raise HarnessError(f"attack '{attack.name}' declares prefix '{prefix}' but gave no snapshot for {steps}")
    return result.snapshots[steps]


def _examine(
    judge: Judge, x: Images, y: Labels, result: Result, cell: Cell, kind: ThreatKind, minimal: bool,
    cost: tuple[int, int], changed: list[str],
) -> _Piece:  # fmt: skip
    reasons: Counter[str] = Counter({text: len(x) for text in changed})
    last, inside, why = _inside(x, result.last, result.evidence, cell, kind, minimal)
    reasons.update(why)
    wrong = judge.broken(last, y, len(last))
    broken = wrong & inside
    reached, claims = broken, 0
    if result.any is not None:
        point, within, why = _inside(x, result.any, result.evidence, cell, kind, minimal)
        reasons.update(why)
        breaks = judge.broken(point, y, len(point)) & within
        moved = (point != x).flatten(1).any(dim=1)
        claims = int((moved & within & ~breaks).sum())
        reached = broken | breaks
    distances = kind.distance(x, last, result.evidence) if minimal else None
    return _Piece(
        raw=~wrong, last=broken, any=reached, distances=distances, cost=cost, false_claims=claims, reasons=reasons
    )


def _inside(
    x: Images, images: Any, evidence: Any, cell: Cell, kind: ThreatKind, minimal: bool
) -> tuple[Images, Flags, Counter[str]]:
    """Verify returned images; an image that fails is replaced by the clean one, so that it cannot win."""
    nothing = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    if not isinstance(images, torch.Tensor) or images.shape != x.shape:
        found = tuple(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
        return x, nothing, Counter({f"wrong shape ({found} for {tuple(x.shape)})": len(x)})
    if not images.is_floating_point():
        return x, nothing, Counter({f"wrong type ({images.dtype})": len(x)})
    images = images.detach().to(device=x.device, dtype=torch.float32)
    finite = torch.isfinite(images).flatten(1).all(dim=1)
    in_range = finite & ((images >= 0) & (images <= 1)).flatten(1).all(dim=1)
    eps = float(cell.threat.eps) if cell.threat.eps is not None else None
    verified = kind.verify(x, rows(finite, images, x), eps, evidence).to(x.device) & finite
    reasons = Counter({
        "not finite": int((~finite).sum()),
        "outside [0, 1]": int((finite & ~in_range).sum()),
        f"outside {cell.threat}": 0 if minimal else int((in_range & ~verified).sum()),
    })  # fmt: skip
    return rows(in_range & (verified | minimal), images, x), in_range & verified, +reasons


def _join(pieces: list[_Piece], clean: Flags) -> Measurement | Refused:
    reasons: Counter[str] = sum((piece.reasons for piece in pieces), Counter())
    if reasons:
        return Refused(reasons, len(clean))
    minimal = [piece.distances for piece in pieces if piece.distances is not None]
    claims = sum(piece.false_claims for piece in pieces)
    return Measurement(
        n=len(clean),
        clean=_bits([clean]),
        raw=_bits([piece.raw for piece in pieces]),
        last=_bits([piece.last for piece in pieces]),
        any=_bits([piece.any for piece in pieces]),
        distances=[float(value) for distances in minimal for value in distances] if minimal else None,
        forwards=sum(piece.cost[0] for piece in pieces),
        backwards=sum(piece.cost[1] for piece in pieces),
        flags={"false_claims": claims} if claims else {},
    )


def _bits(parts: list[Flags]) -> str:
    return "".join("1" if bit else "0" for part in parts for bit in part.tolist())
