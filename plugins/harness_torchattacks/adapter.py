"""Runs one class of torchattacks on a model whose mode and parameters it cannot reach."""

from __future__ import annotations

import inspect
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from harness.api import NotApplicable, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.api import AttackContext, Images, Labels, Logits, Oracle, ThreatModel

NORMS = {"linf": "Linf", "l2": "L2"}
SQUARE_IMAGES = ("Pixle", "Square")
SMALLEST_SIDE = 5
"""Square tiles the image with fifths of its height under l2."""


class Fenced(nn.Module):
    """A wrapper that answers like the model, and is all that torchattacks sees.

    torchattacks takes its device from the first parameter, prints where there is none, and calls `train` and `eval`
    on what it holds: here is a parameter, and calls end here.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        # Held outside the module tree, so that no mode and no gradient flag is handed down.
        object.__setattr__(self, "_model", model)

    def forward(self, x: Images) -> Logits:
        """Compute the logits (n, k), in a tensor of their own, which Square writes to."""
        model = cast("nn.Module", self._model)
        logits: Logits = model(x).clone()
        return logits


def run(
    name: str, least: int, model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext,
    **params: Any,
) -> Images:  # fmt: skip
    """Attack with torchattacks' class `name`, which needs at least `least` classes.

    The class is asked what it wants to know beyond its parameters: budget, norm, number of classes, seed. A seed is
    drawn from the global generator, which the harness seeds for the shard, like all of torchattacks' draws.
    """
    attack = getattr(_library(), name)
    wanted = inspect.signature(attack).parameters
    settings = {"alpha" if key == "step" else key: value for key, value in params.items()}
    if threat.eps is not None:
        settings |= _budget(wanted, threat, channels=x.shape[1])
    if settings.get("pixels") == 0:
        return x
    _check_images(name, x, threat)
    least = max(least, 3 if params.get("loss") == "dlr" else 2)
    if "n_classes" in wanted or least > 2:
        classes = model(x[:1]).shape[1]
        if classes < least:
            raise NotApplicable(f"torchattacks' {name} needs {least} classes, the model has {classes}")
        settings |= {"n_classes": classes} if "n_classes" in wanted else {}
    if "seed" in wanted:
        settings["seed"] = int(torch.randint(2**31, ()))
    images: Images = attack(Fenced(model, x.device), **settings)(x, y).detach()
    return images


def _budget(wanted: Mapping[str, inspect.Parameter], threat: ThreatModel, channels: int) -> dict[str, object]:
    """The budget as the class takes it. Under l0 it counts values, of which a pixel has one for each channel."""
    eps = threat.radius
    offered = {"eps": eps, "max_epsilon": eps, "norm": NORMS.get(threat.kind), "pixels": int(eps) // channels}
    return {key: value for key, value in offered.items() if key in wanted}


def _check_images(name: str, x: torch.Tensor, threat: ThreatModel) -> None:
    height, width = x.shape[2:]
    if name in SQUARE_IMAGES and height != width:
        raise NotApplicable(f"torchattacks' {name} takes square images only, these are {height} by {width}")
    if name == "Square" and threat.kind == "l2" and height < SMALLEST_SIDE:
        raise NotApplicable(f"torchattacks' Square needs images of {SMALLEST_SIDE} pixels and more under l2")


def _library() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torchattacks
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "torchattacks":
                raise
            raise UsageError(
                "attacks named torchattacks/... need an extra: pip install 'adversarial-harness[torchattacks]'"
            ) from error
    library: ModuleType = torchattacks
    return library
