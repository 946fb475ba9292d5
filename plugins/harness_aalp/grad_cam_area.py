"""The area of Grad-CAM maps of clean and of attacked images (AALP v1 figures 1 and 8, v2 figures 2 and 8).

The papers show that strongly related areas shrink as networks become robust; here that is a share of the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from harness.api import NotApplicable, Quantity
from harness.networks import stage_outputs
from harness_aalp.attacked import KINDS, classifier, pairs

if TYPE_CHECKING:
    from harness.api import AnalysisContext, Images, Labels, PeerAttack
    from harness.networks import Classifier


def grad_cam_area(ctx: AnalysisContext, *, attack: str, variant: str, sign: int, level: float) -> dict[str, Quantity]:
    """Measure the mean share of an image where the map of its true class exceeds `level` between its ends 0 and 1.

    Maps without contrast have no area: they are counted apart.
    """
    network = classifier(ctx.network)
    areas = areas_of(ctx, network, ctx.attack(attack), variant, sign, level)
    found = area_quantities(areas)
    both = ~areas.isnan().any(dim=1)
    smaller = areas[both, 1] < areas[both, 0]
    x, y = ctx.test.batch(ctx.examples[:1], ctx.device)
    found["smaller_when_attacked"] = Quantity(
        100 * float(smaller.double().mean()) if len(smaller) else None, len(smaller), "%"
    )
    found["map_size"] = Quantity(cam(network, x, y, variant=variant, sign=sign).numel(), 1, "pixels")
    return found


def areas_of(
    ctx: AnalysisContext, network: Classifier, craft: PeerAttack, variant: str, sign: int, level: float
) -> torch.Tensor:  # fmt: skip
    """Compute the areas (n, 2) of clean and attacked images, as shares; nan for maps without contrast."""
    found = []
    for x, x_adv, y in pairs(ctx, network, craft):
        sides = [
            area(cam(network, images, y, variant=variant, sign=sign), images.shape[2:], level) for images in (x, x_adv)
        ]
        found.append(torch.stack(sides, dim=1))
    return torch.cat(found)


def area_quantities(areas: torch.Tensor) -> dict[str, Quantity]:
    """Average areas (n, 2) of clean and attacked images over those that have one."""
    found = {}
    for kind, column in zip(KINDS, areas.T, strict=True):
        drawn = column[~column.isnan()]
        found[f"{kind}_area"] = Quantity(100 * float(drawn.mean()) if len(drawn) else None, len(drawn), "%")
        found[f"{kind}_flat_maps"] = Quantity(100 * (1 - len(drawn) / len(column)), len(column), "%")
    return found


def cam(network: Classifier, x: Images, y: Labels, *, variant: str, sign: int) -> torch.Tensor:
    """Compute the maps (n, h, w) of the true classes on the last stage with a map, from 0 up, in float64.

    `aalp`: relu(sign * gradient of the cross-entropy * map), element by element (v1 equation 2), summed over channels
    before the relu; sign -1 keeps evidence for the class, 1 is the printed formula. `standard`: the relu of the map's
    channels weighted by the mean gradients of the class's logit (Selvaraju et al. 2017).

    Raises:
        NotApplicable: where no stage gives a map.
    """
    with torch.enable_grad(), stage_outputs(network) as stages:
        logits = network(x.detach().requires_grad_(True))
        maps = [stage for stage in stages.values() if stage.dim() == 4]
        if not maps:
            raise NotApplicable(f"no stage of {type(network).__name__} gives a map")
        if variant == "standard":
            goal = logits.gather(1, y.unsqueeze(1)).sum()
        else:
            goal = F.cross_entropy(logits, y, reduction="sum")
        (gradient,) = torch.autograd.grad(goal, maps[-1])
    gradient, last = gradient.double(), maps[-1].detach().double()
    if variant == "standard":
        return (gradient.mean(dim=(2, 3), keepdim=True) * last).sum(dim=1).relu()
    return (sign * gradient * last).sum(dim=1).relu()


def area(maps: torch.Tensor, size: torch.Size, level: float) -> torch.Tensor:
    """Compute the share (n,) of each image where its map (n, h, w), scaled from 0 to 1, exceeds `level`.

    The map is enlarged to the image first, between its pixels linearly; nan where it is the same everywhere.
    """
    large = F.interpolate(maps.unsqueeze(1), size=tuple(size), mode="bilinear", align_corners=False).flatten(1)
    low, high = large.amin(dim=1, keepdim=True), large.amax(dim=1, keepdim=True)
    above = ((large - low) > level * (high - low)).double().mean(dim=1)
    return torch.where((high > low).squeeze(1), above, torch.nan)
