"""One shard under one attack run: attack in isolation, look for tampering, and let the judge measure every cell."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from harness.data.shard import Shard
from harness.errors import HarnessError
from harness.evaluation.call import pick, run_attack, takes_ctx
from harness.evaluation.context import AttackContext, Supplies
from harness.evaluation.isolation import isolated
from harness.evaluation.judge import Judge, examine
from harness.evaluation.measurement import Measurement, Refused
from harness.evaluation.oracle import Oracle
from harness.evaluation.pieces import Piece, join
from harness.evaluation.witnessing import coded
from harness.types import Attack, Cell, ThreatKind

if TYPE_CHECKING:
    from harness.types import Flags


PROBING = (4, 16)
"""Sizes of the two batches from which the duration of an attack is estimated."""


@dataclass(slots=True, kw_only=True)
class Evaluated:
    """What came of one shard: for each cell a measurement or why it was refused, and what the attack printed.

    `batch`: how many images the attack was handed at once in the end, memory permitting. `codes`: for each cell,
    example -> the code of a witness, for the examples that the cells before it left without one.
    """

    results: list[Measurement | Refused]
    printed: str
    batch: int
    codes: list[dict[int, np.ndarray]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackRun:
    """One attack on what one judge holds, for cells that differ in the attack's prefix parameter only.

    The attack is handed what is deployed, or the stand-in of `supplies` that the cells name. `batch`: how many images
    it is handed at once, at most.
    """

    judge: Judge
    attack: Attack
    cells: Sequence[Cell]
    kind: ThreatKind
    batch: int
    supplies: Supplies = field(default_factory=Supplies)

    @property
    def divisible(self) -> bool:
        """Tell whether a shard may be cut into batches; imports the attack where that is late."""
        return takes_ctx(self.attack) and not self.attack.batch_coupled

    @property
    def prefix(self) -> str | None:
        """The attack's prefix parameter, in which the cells differ, or None where it has none."""
        return self.attack.prefix if self.attack.prefix in self.cells[0].params else None

    @property
    def target(self) -> nn.Module:
        """The network that is attacked: what is deployed, or the stand-in that the cells name."""
        on = self.cells[0].on
        return self.supplies.stand_ins[on] if on else self.judge.model


def evaluate(run: AttackRun, shard: Shard, lacking: np.ndarray | None = None) -> Evaluated:
    """Attack one shard once, and judge every cell of the run.

    `lacking`: which of the examples, bool (n,), a witness is wanted for, by default none.

    An attack that couples the images of a batch, or takes no `ctx` and so draws from global generators, if at all,
    always gets the whole shard. For the others a batch that does not fit into memory is halved and tried again.

    Raises:
        OutOfTime: once the deadline of `supplies` has passed.
        InvalidModel: where the model that verdicts use has changed, or answers nonsense.
        HarnessError: where the attack returns something else than images or a `Result`, or lacks a snapshot.
    """
    pieces: list[list[Piece]] = [[] for _ in run.cells]
    printed = []
    clean = _clean(run.judge, shard, run.batch)
    unwitnessed = None if lacking is None else clean & torch.from_numpy(lacking).to(clean.device)
    divisible = run.divisible
    size = min(run.batch, len(shard.x)) if divisible else len(shard.x)
    start = 0
    while start < len(shard.x):
        try:
            seen, output = _batch(run, shard, slice(start, start + size), unwitnessed)
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not divisible or not _out_of_memory(error):
                raise
            size = (size + 1) // 2
            continue
        printed.append(output)
        for all_seen, piece in zip(pieces, seen, strict=True):
            all_seen.append(piece)
        start += size
    results = [join(seen, clean) for seen in pieces]
    codes = [
        {} if isinstance(result, Refused) else {k: v for piece in seen for k, v in piece.codes.items()}
        for result, seen in zip(results, pieces, strict=True)
    ]
    return Evaluated(results=results, printed="".join(printed), batch=size, codes=codes)


def estimate(run: AttackRun, shard: Shard, sizes: Sequence[int]) -> float:
    """Estimate the seconds that shards of these sizes will take, from two probing batches of the given shard."""
    counts = [min(len(shard.x), n) for n in PROBING]
    seconds = []
    divisible = run.divisible  # imports what is lazy, before the clock runs
    for n in counts:
        start = time.perf_counter()
        _batch(run, shard, slice(0, n))
        seconds.append(time.perf_counter() - start)
    each = max(0.0, seconds[1] - seconds[0]) / max(1, counts[1] - counts[0])
    fixed = max(0.0, seconds[1] - counts[1] * each)
    batches = sum(-(-n // (run.batch if divisible else n)) for n in sizes)
    return fixed * batches + each * sum(sizes)


def _clean(judge: Judge, shard: Shard, batch: int) -> Flags:
    """Tell which clean images (n,) are classified correctly, in smaller batches where memory asks for it."""
    try:
        with isolated("judge", "clean", shard.data_sha256, shard.examples[0]):
            return judge.clean((shard.start, shard.stop), shard.x, shard.y, batch)
    except (RuntimeError, MemoryError) as error:
        size = min(batch, len(shard.x))
        if size == 1 or not _out_of_memory(error):
            raise
    return _clean(judge, shard, (size + 1) // 2)


def _out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that memory ran out; torch has a class of its own for some devices only."""
    words = str(error).lower()
    named = any(sign in words for sign in ("out of memory", "can't allocate memory", "alloc_failed"))
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or named


def _batch(run: AttackRun, shard: Shard, part: slice, unwitnessed: Flags | None = None) -> tuple[list[Piece], str]:
    """Attack some images of a shard once, and examine the result for every cell; return what was printed too.

    `unwitnessed`: of the shard's examples, those that a witness is wanted for.
    """
    judge, attack, cells, prefix = run.judge, run.attack, run.cells, run.prefix
    wanted = [int(str(cell.params[prefix])) if prefix else 0 for cell in cells]
    x, y = shard.x[part], shard.y[part]
    oracle = Oracle(run.target, attack.access, run.supplies.deadline)
    ctx = AttackContext(
        oracle, x, seed=cells[0].seed, data_sha256=shard.data_sha256, examples=shard.examples[part],
        steps_wanted=sorted(set(wanted)) if prefix else (), supplies=run.supplies,
    )  # fmt: skip
    before = oracle.fingerprint()
    params = {**cells[0].params, prefix: max(wanted)} if prefix else cells[0].params
    returned, printed = run_attack(attack, oracle, x, y, cells[0].threat, ctx, params)
    total = (oracle.forwards, oracle.backwards)
    oracle.deadline = None
    changed = _tampering(oracle, judge, run.target, before)
    judge.check_unchanged()
    pieces = []
    lacking = torch.zeros_like(y, dtype=torch.bool) if unwitnessed is None else unwitnessed[part].clone()
    for cell, steps in zip(cells, wanted, strict=True):
        result = pick(attack, returned, steps, max(wanted), prefix)
        cost = _cost(attack, ctx, steps, total) if prefix and len(cells) > 1 else total
        # A random defense draws from here, so that its verdicts do not depend on what ran before.
        with isolated("judge", cell.seed, shard.data_sha256, ctx.examples[0]):
            examined, judged = examine(judge, x, y, result, cell.threat, run.kind, attack.minimal)
            codes = coded(judge, x, y, judged, examined.any & lacking, cell.threat, run.kind)
        examined.reasons.update({reason: len(x) for reason in changed})
        if not examined.reasons:
            lacking[list(codes)] = False
        named = {ctx.examples[row]: code for row, code in codes.items()}
        pieces.append(Piece(examined=examined, cost=cost, codes=named))
    return pieces, printed


def _cost(attack: Attack, ctx: AttackContext, steps: int, total: tuple[int, int]) -> tuple[int, int]:
    """Return the forward and backward passes of a snapshot, never more than those of the whole run."""
    if steps not in ctx.costs:
        raise HarnessError(f"attack '{attack.name}' declares prefix '{attack.prefix}' but does not call ctx.reached")
    spent = ctx.costs[steps]
    return min(spent[0], total[0]), min(spent[1], total[1])


def _tampering(oracle: Oracle, judge: Judge, target: nn.Module, before: dict[str, str]) -> list[str]:
    """Name what the attack changed in its copy of the target, as reasons to refuse the batch."""
    found = [f"modified the model ({part})" for part, value in oracle.fingerprint().items() if value != before[part]]
    if not found and not judge.stochastic:
        with isolated("canaries"), torch.no_grad():
            answers = oracle.network(judge.canaries.clone())
            expected = target(judge.canaries.clone())
        if not torch.equal(answers, expected):
            found.append("modified the model (behaviour)")
    return found
