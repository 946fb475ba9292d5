"""How the spread of contributions and the area of Grad-CAM maps change in training (AALP figures 9 and 10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import Quantity
from harness_aalp import feature_contribution, grad_cam_area
from harness_aalp.attacked import classifier

if TYPE_CHECKING:
    from torch import nn

    from harness.api import AnalysisContext, PeerAttack

KEPT = (*(f"features_for_{share}" for share in feature_contribution.SHARES), "effective_features")


def contribution_course(ctx: AnalysisContext, *, every: int, attack: str, of: str) -> dict[str, Quantity]:
    """Train the network again, and measure it after every so many batches and after the last.

    Each network is attacked by itself. Maps are those of `grad_cam_area` with its usual parameters. `same_weights`: 1
    where the weights of the subject resulted; other machines and numbers of threads round to others.

    Raises:
        NotApplicable: where there is no training to follow.
        UsageError: for `every` below 1.
    """
    classifier(ctx.network)
    craft = ctx.attack(attack)
    found: dict[str, Quantity] = {}

    def after_step(network: nn.Module, done: int) -> None:
        seen = _look(ctx, network, craft, of)
        found.update({f"{name}_at_step_{done:06d}": value for name, value in seen.items()})
        found["steps"] = Quantity(done, 1, "steps")

    same = ctx.train_again(after_step=after_step, every=every)
    return found | {"same_weights": Quantity(float(same), 1, "1 = yes")}


def _look(ctx: AnalysisContext, network: nn.Module, craft: PeerAttack, of: str) -> dict[str, Quantity]:
    trained = classifier(network)
    spread = {
        f"{kind}_{name}": value
        for kind, amounts in feature_contribution.contributions(ctx, trained, craft, of).items()
        for name, value in feature_contribution.curve(amounts, len(ctx.examples)).items()
        if name in KEPT
    }
    return spread | grad_cam_area.area_quantities(grad_cam_area.areas_of(ctx, trained, craft, "aalp", -1, 0.5))
