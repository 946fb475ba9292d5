"""Controls of purification: other signs, labels and strengths, and what the pattern itself carries.

A network that overfits to single steps may read the label that an FGSM pattern carries (Kurakin et al. 2017,
arXiv:1611.01236, "label leaking"): then the answer follows the pattern, not the image.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, cast

import torch

from harness.api import Quantity
from harness_tpap.overfitting import batches
from harness_tpap.purify import input_gradient, magnitude

if TYPE_CHECKING:
    from torch import nn

    from harness.api import AnalysisContext, Flags, Images, Labels

SWEEP = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0)


def purification(ctx: AnalysisContext) -> dict[str, Quantity]:
    """Measure the accuracy with each pattern on clean and on PGD-20 images of the bare network, shares and cost.

    `clean_strength_x` and `pgd20_strength_x`: at x times the strength. Gradients count as zero in float32, where
    cross-entropy underflows.
    """
    strength = magnitude(ctx.defense_params["strength"])
    craft = ctx.attack("pgd-20")
    counts: dict[str, tuple[int, int]] = {}
    for examples, x, y in batches(ctx):
        for kind, images in (("clean", x), ("pgd20", craft(ctx.network, x, y, examples))):
            with torch.no_grad():
                for name, flags in observed(ctx.network, images, y, strength).items():
                    right, n = counts.get(f"{kind}_{name}", (0, 0))
                    counts[f"{kind}_{name}"] = right + int(flags.sum()), n + flags.numel()
    found = {name: Quantity(100 * right / n if n else None, n, "%") for name, (right, n) in counts.items()}
    forward, back = passes(ctx)
    return found | {"forward_passes": Quantity(forward, 1, "passes"), "backward_passes": Quantity(back, 1, "passes")}


def observed(network: nn.Module, x: Images, y: Labels, strength: float) -> dict[str, Flags]:
    """Compute named flags, over images or over pixels, whose means are reported; torch's generator is drawn from."""
    logits = network(x)
    predicted, classes = logits.argmax(dim=1), logits.shape[1]
    drawn = (predicted + torch.randint(1, classes, predicted.shape).to(x.device)) % classes
    own = pattern(network, x, predicted)
    written = answers(network, x, strength * pattern(network, x, drawn))
    partner = torch.arange(len(x), device=x.device).roll(1)
    borrowed = answers(network, x, strength * own[partner])
    random = torch.randint(0, 2, x.shape).to(x) * 2 - 1
    foreign = (predicted[partner] != predicted) & (predicted[partner] != y)
    return {
        "bare": predicted == y,
        "predicted": answers(network, x, strength * own) == y,
        "reversed": answers(network, x, -strength * own) == y,
        "random_sign": answers(network, x, strength * random) == y,
        "oracle_label": answers(network, x, strength * pattern(network, x, y)) == y,
        "random_label": written == y,
        "other_image": borrowed == y,
        **{f"strength_{share:g}": answers(network, x, share * strength * own) == y for share in SWEEP},
        "follows_random_label": (written == drawn)[drawn != y],
        "follows_other_image": (borrowed == predicted[partner])[foreign],
        "changed_by_purification": answers(network, x, strength * own) != predicted,
        "zero_gradient_pixels": own == 0,
        "zero_gradient_images": (own == 0).flatten(1).all(dim=1),
    }


def pattern(network: nn.Module, x: Images, labels: Labels) -> torch.Tensor:
    """Compute the signs (n, c, h, w) of the FGSM step against the labels."""
    return input_gradient(network, x, lambda logits: labels).sign()


def answers(network: nn.Module, x: Images, change: torch.Tensor) -> Labels:
    """Predict the labels (n,) of changed images, clamped to [0, 1]."""
    labels: Labels = network((x + change).clamp(0.0, 1.0)).argmax(dim=1)
    return labels


def passes(ctx: AnalysisContext) -> tuple[int, int]:
    """Count the forward and the backward passes of one prediction, on a copy of the model."""
    x, _ = ctx.test.batch(ctx.examples[:1], ctx.device)
    model = copy.deepcopy(ctx.model)
    seen = {"forward": 0, "back": 0}

    def forward(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen["forward"] += 1
        if output.requires_grad:
            output.register_hook(back)

    def back(gradient: torch.Tensor) -> None:
        seen["back"] += 1

    cast("nn.Module", model.network).register_forward_hook(forward)
    with torch.no_grad():
        model(x)
    return seen["forward"], seen["back"]
