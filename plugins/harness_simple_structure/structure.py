"""The network that is trained and saved: the classifier T, the detector H, and the frozen clean network P."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from harness.api import UsageError
from harness.networks import Classifier, frozen
from harness_simple_structure.detector import Detector
from harness_simple_structure.sampling import check_ratios
from harness_simple_structure.sets import chosen

if TYPE_CHECKING:
    from harness_simple_structure.sets import StoredImages


class Structure(nn.Module):
    """The three networks; its answer is the logits of T alone.

    P is in eval mode whatever the mode of the whole, so that its batch norm statistics stand still (in the published
    training they drift). It starts as a copy of T and is `filled` with trained weights when training begins; both are
    part of the saved state. `images` are the stored images of a training, no part of it.
    """

    filled: torch.Tensor

    def __init__(self, network: Classifier, shape: tuple[int, int, int], *, input: str, layers: int) -> None:
        super().__init__()
        self.network = network
        self.clean = copy.deepcopy(network).requires_grad_(False)
        self.detector = Detector(_stage_shapes(network, shape), input=input, layers=layers)
        self.register_buffer("filled", torch.tensor(False))
        self.images: StoredImages | None = None
        self.train(network.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits (n, k) of T."""
        logits: torch.Tensor = self.network(x)
        return logits

    def train(self, mode: bool = True) -> Structure:
        """Set the mode of T and H; P stays in eval mode."""
        super().train(mode)
        self.clean.eval()
        return self


def extend(
    network: nn.Module, *, shape: tuple[int, int, int], classes: int, ratio: float, ratio_range: str | None, sets: str,
    input: str, layers: int, **_of_the_step: Any,
) -> Structure:  # fmt: skip
    """Add the detector and the clean network to a freshly built classifier.

    Raises:
        UsageError: for ratios or sets that mean nothing, or a network that names no stages.
    """
    check_ratios(ratio, ratio_range)
    chosen(sets)
    if not isinstance(network, Classifier) or not network.stage_names:
        raise UsageError("simple_structure looks at a network's stages, and this one names none; choose another --arch")
    return Structure(network, shape, input=input, layers=layers)


def deploy(model: Structure, **_params: Any) -> nn.Module:
    """Return T, which is deployed."""
    return model.network


def clean(model: Structure, **_params: Any) -> nn.Module:
    """Return P, which the paper crafts its attacks on."""
    return model.clean


def _stage_shapes(network: Classifier, shape: tuple[int, int, int]) -> dict[str, tuple[int, int, int]]:
    with frozen(network, training=False), torch.no_grad():
        return {
            name: cast("tuple[int, int, int]", tuple(found.shape[1:]))
            for name, found in network.stages(torch.zeros(1, *shape)).items()
        }
