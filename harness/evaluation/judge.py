"""The judge: predicts with a model no attack ever held, and verifies every returned image.

Success is a fresh float32 eval-mode prediction of the deployed model on a private copy of the returned images. Budget
and range are verified in float64 on that very copy.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from harness.errors import HarnessError
from harness.evaluation.canaries import AGREEMENT, PASSES, apart, canary_images, noise_share
from harness.evaluation.isolation import isolated
from harness.evaluation.oracle import fingerprint
from harness.networks import settle
from harness.ops import misclassified, where_rows
from harness.types import Result, ThreatKind, ThreatModel

if TYPE_CHECKING:
    from harness.types import Flags, Images, Labels, Logits

REVISION = 1
"""Raised whenever the same images would be judged differently."""


class InvalidModel(HarnessError):
    """A deployed model that does not answer finite logits of the right shape, or no longer answers as it did."""


class Judge:
    """The deployed model as verdicts use it, watched for changes; clean predictions are computed once for a shard.

    Puts the model into eval mode and freezes it, in place. `real`: images (n, c, h, w) of the kind that it is to judge,
    some of which become canaries. `passes`: how often it is asked about the same canaries. `stochastic`: one of the
    passes differs from the first by more than 1e-4 of the gap between two logits. `logit_noise`: the largest difference
    of two as a share of the scale of the logits. `votes`: how many fresh predictions stand behind a verdict; more than
    half of them decide. `answers`: the logits (n, k) of the first pass, after a fixed reseed; `repeatable`: they come
    again after it.

    Raises:
        InvalidModel: where the model answers nonsense, or something else with gradients switched on, or once and for
            all something else after some passes.
    """

    def __init__(
        self, model: nn.Module, classes: int, shape: tuple[int, ...], device: str | torch.device = "cpu",
        votes: int = 1, *, real: Images | None = None, passes: int = PASSES,
    ) -> None:  # fmt: skip
        self.model = settle(model)
        self.votes = votes
        self.classes = classes
        self._clean: dict[tuple[int, int], Flags] = {}
        self.canaries = canary_images(shape, device, real)
        self.logit_noise = 0.0
        with isolated("canaries"):
            self.answers = self.logits(self.canaries)
            self.stochastic = self._ask_again(passes)
            with torch.enable_grad():
                graded = self.model(self.canaries.clone().requires_grad_(True).clone()).detach()
        with isolated("canaries"):
            self.repeatable = bool(apart(self.answers, self.logits(self.canaries)).max() <= AGREEMENT)
        if not self.stochastic and apart(self.answers, graded).max() > AGREEMENT:
            raise InvalidModel("the model answers something else when gradients are switched on")
        self._state = fingerprint(self.model)

    def _ask_again(self, passes: int) -> bool:
        """Tell whether the answers of further passes differ from those of the first."""
        differ, changes, before = False, 0, self.answers
        for _ in range(passes - 1):
            again = self.logits(self.canaries)
            differ |= bool(apart(self.answers, again).max() > AGREEMENT)
            self.logit_noise = max(self.logit_noise, noise_share(self.answers, again))
            changes += bool(apart(before, again).max() > AGREEMENT)
            before = again
        # Chance comes and goes; what comes to stay is state.
        if changes == 1 and passes >= PASSES:
            raise InvalidModel(
                f"the model answers something else after some of {passes} passes over the same images, and keeps to "
                "it: it keeps state. Make its answers depend on the image alone"
            )
        return differ

    def check_unchanged(self) -> None:
        """Compare weights, modes, hooks and answers with those from before the first attack.

        Raises:
            InvalidModel: naming what differs. Every later check fails too, so that no number follows a change.
        """
        changed = [part for part, value in fingerprint(self.model).items() if value != self._state[part]]
        if not changed and not self.stochastic:
            with isolated("canaries"):
                changed = ["behaviour"] if not torch.equal(self.logits(self.canaries), self.answers) else []
        if changed:
            raise InvalidModel(
                f"the model that verdicts use has changed ({', '.join(changed)}): an attack reached it, or it keeps "
                "state. Nothing after this can be trusted"
            )

    def logits(self, x: Images) -> Logits:
        """Predict images (n, c, h, w) in float32, without a graph, and check the logits (n, k) that come back.

        Raises:
            InvalidModel: for logits of another shape or kind, or that are not finite.
        """
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            logits: Logits = self.model(x.clone())
        if type(logits) is not torch.Tensor or logits.dtype != torch.float32:
            found = getattr(logits, "dtype", type(logits).__name__)
            mend = "call .float() on them" if type(logits) is torch.Tensor else "return one tensor, (images, classes)"
            raise InvalidModel(f"the model answers {found}, not float32 logits: {mend}")
        if logits.shape != (len(x), self.classes):
            raise InvalidModel(
                f"the model answers {tuple(logits.shape)} for {len(x)} images and {self.classes} classes"
            )
        if not torch.isfinite(logits).all():
            raise InvalidModel("nonfinite-logits: the model answers NaN or infinity")
        return logits

    def misclassified(self, x: Images, y: Labels, batch: int) -> Flags:
        """Tell which images (n,) are misclassified, by a majority of `votes`, predicted in batches of a fixed size."""
        parts = [(x[i : i + batch], y[i : i + batch]) for i in range(0, len(x), batch)]
        return torch.cat([self._outvoted(*part) for part in parts])

    def _outvoted(self, x: Images, y: Labels) -> Flags:
        wrong = torch.stack([misclassified(self.logits(x), y) for _ in range(self.votes)])
        return 2 * wrong.sum(dim=0) > self.votes

    def clean(self, span: tuple[int, int], x: Images, y: Labels, batch: int) -> Flags:
        """Tell which clean images (n,) of a shard are classified correctly; `span` names the shard."""
        if span not in self._clean:
            self._clean[span] = ~self.misclassified(x, y, batch)
        return self._clean[span]


@dataclass(slots=True, kw_only=True)
class Examined:
    """What was seen of every image of a batch, and the reasons to refuse it, each with its number of images.

    `raw`, `last` and `any` as in `Measurement`, Flags (n,). `distances`: float64 (n,), or None. `false_claims`: images
    given as `any` that differ from the clean ones, lie inside and are classified correctly. `out_of_range`: final
    images outside [0, 1] under a threat kind that allows them.
    """

    raw: Flags
    last: Flags
    any: Flags
    distances: torch.Tensor | None
    false_claims: int
    out_of_range: int
    details: dict[str, torch.Tensor]
    reasons: Counter[str]


def examine(
    judge: Judge, x: Images, y: Labels, result: Result, threat: ThreatModel, kind: ThreatKind, minimal: bool
) -> tuple[Examined, Images]:
    """Verify the images of a result and predict on them; return what was seen, and the judged image of each example.

    The judged image is the copy that broke the example where one did: the final image before the other reported one.

    `minimal`: the attack seeks the smallest perturbation. Its images may leave the budget, which breaks nothing but is
    no reason to refuse them, and their distances are kept, as under threat kinds without a budget.
    """
    last, inside, reasons = _verified(x, result.last, result.evidence, threat, kind, minimal)
    wrong = judge.misclassified(last, y, len(last))
    broken = wrong & inside
    reached, claims, judged = broken, 0, last
    if result.any is not None:
        evidence = result.evidence if result.any_evidence is None else result.any_evidence
        point, within, more = _verified(x, result.any, evidence, threat, kind, minimal)
        reasons |= more
        breaks = judge.misclassified(point, y, len(point)) & within
        moved = (point != x).flatten(1).any(dim=1)
        claims = int((moved & within & ~breaks).sum())
        reached, judged = broken | breaks, where_rows(broken, last, point)
    distances = kind.distance(x, last, result.evidence) if minimal or not kind.bounded else None
    if distances is not None and not torch.isfinite(distances).all():
        reasons["distance not finite"] = int((~torch.isfinite(distances)).sum())
    details, malformed = _details(result, len(x))
    beyond = 0 if kind.box else int(((last < 0) | (last > 1)).flatten(1).any(dim=1).sum())
    examined = Examined(
        raw=~wrong, last=broken, any=reached, distances=distances, false_claims=claims, out_of_range=beyond,
        details=details, reasons=reasons + malformed,
    )  # fmt: skip
    return examined, judged


def _details(result: Result, n: int) -> tuple[dict[str, torch.Tensor], Counter[str]]:
    """Collect what the attack tells about each example, and what of it is no finite number for each."""
    told = {name: torch.as_tensor(values).detach().double().cpu() for name, values in result.details.items()}
    bad = [name for name, values in told.items() if values.shape != (n,) or not torch.isfinite(values).all()]
    return told, Counter({f"detail '{name}' is no finite number for each image": n for name in bad})


def _verified(
    x: Images, images: Any, evidence: Any, threat: ThreatModel, kind: ThreatKind, minimal: bool
) -> tuple[Images, Flags, Counter[str]]:
    """Copy the returned images, tell which (n,) are inside the threat model, and count what is wrong with others.

    What cannot be predicted on is replaced by the clean image; its shard is refused anyway.
    """
    nothing = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    if type(images) not in (torch.Tensor, nn.Parameter) or images.shape != x.shape:
        found = tuple(images.shape) if type(images) is torch.Tensor else type(images).__name__
        return x, nothing, Counter({f"wrong shape ({found} for {tuple(x.shape)})": len(x)})
    if not images.is_floating_point():
        return x, nothing, Counter({f"wrong type ({images.dtype})": len(x)})
    own = torch.empty_like(x).copy_(images.detach())
    finite = torch.isfinite(own).flatten(1).all(dim=1)
    in_range = finite & (((own >= 0) & (own <= 1)).flatten(1).all(dim=1) | (not kind.box))
    eps = float(threat.eps) if threat.eps is not None else None
    verified = kind.verify(x, where_rows(finite, own, x), eps, evidence).to(x.device) & finite
    outside = 0 if minimal else int((in_range & ~verified).sum())
    reasons = Counter({
        "not finite": int((~finite).sum()),
        "outside [0, 1]": int((finite & ~in_range).sum()),
        f"outside {threat}": outside,
    })  # fmt: skip
    return where_rows(in_range & (verified | minimal), own, x), in_range & verified, +reasons
