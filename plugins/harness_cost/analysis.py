"""The analysis `cost`: FLOPs of one image, two for a multiply-add, of convolutions and matrix products alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from harness.api import Quantity
from harness.networks import parameter_count
from harness_cost.flops import count

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from harness.api import AnalysisContext, Images
    from harness_cost.flops import Flops

FLOP, PASSES = "FLOP/image", "inferences of the bare network"


def cost(ctx: AnalysisContext, *, images: int) -> dict[str, Quantity]:
    """Measure parameters, and FLOPs of inference and of training.

    Training is one step of the defense on that many images: every image is in one step of an epoch.

    `by_convention`: every backward pass costs two forward passes, as the cost table of TPAP counts it. What is counted
    leaves out gradients of weights where nobody asks for them, and of images in the first layer.
    """
    x = ctx.test.batch(ctx.examples[:images], ctx.device)[0]
    deployed, bare = _inference(ctx.model, x), _inference(ctx.network, x)
    found = {
        "parameters": Quantity(parameter_count(ctx.model), 1, "parameters"),
        "parameters_trained": Quantity(parameter_count(ctx.network), 1, "parameters"),
        "inference_flops": Quantity(deployed.counted, len(x), FLOP),
        "inference_flops_bare": Quantity(bare.counted, len(x), FLOP),
        "inference_multiplier": Quantity(_times(deployed.counted, bare), len(x), PASSES),
        "inference_multiplier_by_convention": Quantity(_times(deployed.by_convention, bare), len(x), PASSES),
    }
    if ctx.training is None or ctx.step is None:
        names = ("training_flops", "training_flops_by_convention")
        return found | {name: Quantity(None, 0, f"{FLOP} and epoch") for name in names}
    step, n = _training(ctx, images)
    return found | {
        "training_flops": Quantity(step.counted, n, f"{FLOP} and epoch"),
        "training_flops_by_convention": Quantity(step.by_convention, n, f"{FLOP} and epoch"),
    }


def _times(flops: float, bare: Flops) -> float | None:
    return flops / bare.counted if bare.counted else None


def _inference(model: nn.Module, x: Images) -> Flops:
    def predict() -> None:
        with torch.no_grad():
            model(x)

    return count(predict, len(x))


def _training(ctx: AnalysisContext, images: int) -> tuple[Flops, int]:
    """One forward and backward of the step, at the end of training, as far as a schedule has it."""
    x, y, training = ctx.training_batch(images)
    model, step = ctx.trainee(), cast("Callable[..., torch.Tensor]", ctx.step)
    return count(lambda: step(model, x, y, training).backward(), len(x)), len(x)
