"""The loss of one batch of Simple Structure.

The detector H learns to tell attacks by the features of the clean network P, and the classifier T is pulled to the
feature that H computes of P.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.func import functional_call

from harness.api import PluginError
from harness.networks import Classifier, stage_outputs
from harness_simple_structure import sampling, sets
from harness_simple_structure.structure import Structure

if TYPE_CHECKING:
    from harness.api import Images, Labels, TrainContext


def step(
    model: Structure, x: Images, y: Labels, ctx: TrainContext, *, ratio: float, ratio_range: str | None, storage: str,
    a: float, b: float, match: str, **sizes: Any,
) -> torch.Tensor:  # fmt: skip
    """Compute the loss on stored images of the batch's examples, which replace `x` and are augmented like it."""
    if len(ctx.examples) != len(y):
        raise PluginError("simple_structure trains on stored images: ctx.examples must be the indices of the batch")
    images = _prepared(model, ctx, sets.chosen(sizes["sets"]), storage)
    share = sampling.epoch_ratio(ratio, ratio_range, ctx.seed, ctx.progress)
    kinds = sampling.draw(len(y), share, len(images.arrays) - 1)
    mixed = ctx.augment(images.pick(ctx.examples, kinds, ctx.device))
    return loss(model, mixed, y, (kinds > 0).long().to(ctx.device), a=a, b=b, match=match)


def loss(
    model: Structure, x: Images, y: Labels, adversarial: torch.Tensor, *, a: float, b: float, match: str
) -> torch.Tensor:
    """Compute CE(H(P(x)), adversarial), which trains H, plus a CE(T(x), y) + b SmoothL1(h_T, h_P), which trains T.

    h is H's feature. The published code updates H before the step of T, so that h_T is taken with the newer H and h_P
    with the older one; here both losses are of the same H and their steps are one. `match="random"` leaves H untrained,
    `match="features"` compares the penultimate features of T and P themselves.
    """
    with torch.no_grad():
        wanted, maps = _looked_into(model.clean, x)
    seen, verdict = model.detector(maps)
    found, maps = _looked_into(model.network, x)
    total = a * F.cross_entropy(model.network.head(found), y)
    if match != "random":
        total = total + F.cross_entropy(verdict, adversarial)
    if b:
        if match != "features":
            constants = {name: parameter.detach() for name, parameter in model.detector.named_parameters()}
            found, _ = functional_call(model.detector, constants, (maps,))
            wanted = seen.detach()
        total = total + b * F.smooth_l1_loss(found, wanted)
    return total


def _looked_into(network: Classifier, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Penultimate features, and the maps of the stages."""
    with stage_outputs(network) as maps:
        features = network.features(x)
    return features, maps


def _prepared(model: Structure, ctx: TrainContext, names: list[str], storage: str) -> sets.StoredImages:
    """The stored images; before the first batch of a training P gets its weights, and keeps those that were saved."""
    if model.images is None:
        if not model.filled:
            model.clean.load_state_dict(ctx.network_of("raw").state_dict())
            model.filled.fill_(True)
        model.images = sets.collect(model.clean, ctx, names, storage)
    return model.images
