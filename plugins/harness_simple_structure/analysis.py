"""Measures the detector on attacked test images, and what rejecting by it would leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from harness.api import Quantity
from harness_simple_structure import eight_bit, metrics, mixtures, sets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.api import AnalysisContext, Labels
    from harness_simple_structure.structure import Structure

BATCH = 250

Seen = dict[str, list[torch.Tensor]]


def detector(ctx: AnalysisContext, *, mixture: str, white_box: str) -> dict[str, Quantity]:
    """Measure detection and classification under each attack, on as many clean images as attacked ones.

    The sets are crafted on P, `white_box` on what is deployed, and neither knows the detector. Clean images went
    through the storage as often as attacked ones, but for the mixture `by_class`, which is the published one. For
    `mixture="both_networks"` the paper's Baseline, which is P, is measured on the mixtures too, and clean images that
    went through the storage once, as in its tables 2 and 4.
    """
    params = cast("Mapping[str, Any]", ctx.defense_params)
    names = sets.chosen(params["sets"])
    seen = _observe(ctx, names, white_box, params["storage"])
    found = {"base rate, one attack": Quantity(0.5, 2 * len(ctx.examples), "share")}
    for name in [*names, white_box]:
        found |= _one_attack(seen, name)
    found |= _classified(seen, "clean")
    y = ctx.images()[1].cpu()
    baseline = mixture == "both_networks"
    for kind in ("uniform", "by_class") if mixture.startswith("both") else (mixture,):
        clean = "clean" if kind == "uniform" else "clean, once"
        kinds = getattr(mixtures, kind)(y, params["ratio"], len(names))
        found |= _mixture(seen, kind, [clean, *names], kinds, y, baseline)
    return found | (_classified(seen, "clean, once") if baseline else {})


def _observe(ctx: AnalysisContext, names: list[str], white_box: str, storage: str) -> Seen:
    """For each source of images the detector's scores, higher for adversarial, and whether T and P are right: (n,)."""
    network = cast("Structure", ctx.network)
    plain = eight_bit.pixels_of(ctx.test.split, ctx.examples)
    labels = ctx.test.split.labels[ctx.examples]
    again = eight_bit.jpeg if storage == "jpeg75" else np.array
    once = again(plain)
    images = {"clean, once": once, "clean": again(once)}
    for name in [*names, white_box]:
        target = ctx.model if name == white_box else network.clean
        images[name] = sets.attacked(
            sets.crafter(ctx, name), target, once, labels, ctx.examples, storage=storage, device=ctx.device, batch=BATCH
        )
    return {name: _answers(ctx, pixels, torch.from_numpy(labels)) for name, pixels in images.items()}


@torch.no_grad()
def _answers(ctx: AnalysisContext, pixels: np.ndarray, labels: Labels) -> list[torch.Tensor]:
    trained = cast("Structure", ctx.network)
    answers = []
    for start in range(0, len(pixels), BATCH):
        x = eight_bit.images_of(pixels[start : start + BATCH], ctx.device)
        y = labels[start : start + BATCH].to(ctx.device)
        verdict = trained.detector(trained.clean.stages(x))[1]
        right = [network(x).argmax(dim=1) == y for network in (ctx.model, trained.clean)]
        answers.append([verdict[:, 1] - verdict[:, 0], *right])
    return [torch.cat(parts).cpu() for parts in zip(*answers, strict=True)]


def _one_attack(seen: Seen, name: str) -> dict[str, Quantity]:
    clean, scores = seen["clean"][0], seen[name][0]
    right = torch.cat([clean <= 0, scores > 0])
    return {
        f"accuracy, {name}": _share(right),
        f"auroc, {name}": Quantity(metrics.auroc(clean, scores), len(right), "share"),
        f"tpr at 5% fpr, {name}": Quantity(metrics.true_positives(clean, scores), len(right), "share"),
        **_classified(seen, name),
    }


def _classified(seen: Seen, name: str) -> dict[str, Quantity]:
    """How many images are right, and how many are accepted where 5 % of the clean ones are rejected."""
    scores, right, right_of_clean = seen[name]
    accepted = scores <= metrics.threshold(seen["clean"][0])
    return {
        f"classification, {name}": _share(right),
        f"classification of the clean network, {name}": _share(right_of_clean),
        f"coverage, {name}": _share(accepted),
        f"classification of accepted, {name}": _share(right[accepted]),
    }


def _mixture(
    seen: Seen, mixture: str, names: list[str], kinds: torch.Tensor, y: Labels, baseline: bool
) -> dict[str, Quantity]:  # fmt: skip
    rows, adversarial = torch.arange(len(y)), kinds > 0
    scores, right, right_of_clean = (
        torch.stack(part)[kinds, rows] for part in zip(*(seen[name] for name in names), strict=True)
    )
    found = {
        f"accuracy, mixture {mixture}": _share((scores > 0) == adversarial),
        f"base rate, mixture {mixture}": _share(adversarial if adversarial.float().mean() >= 0.5 else ~adversarial),
        f"told by class alone, mixture {mixture}": Quantity(mixtures.told_by_class(y, kinds), len(y), "share"),
        f"classification, mixture {mixture}": _share(right),
    }
    if baseline:
        found[f"classification of the clean network, mixture {mixture}"] = _share(right_of_clean)
    if adversarial.any() and not adversarial.all():
        sides = scores[~adversarial], scores[adversarial]
        found[f"auroc, mixture {mixture}"] = Quantity(metrics.auroc(*sides), len(y), "share")
        found[f"tpr at 5% fpr, mixture {mixture}"] = Quantity(metrics.true_positives(*sides), len(y), "share")
    return found


def _share(flags: torch.Tensor) -> Quantity:
    return Quantity(float(flags.double().mean()) if len(flags) else None, len(flags), "share")
