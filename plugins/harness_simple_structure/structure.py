"""What is trained and saved: the classifier T, the detector H, and the clean network P that stays as it is."""

import copy

import torch
from torch import nn

from harness.api import UsageError
from harness.networks import Classifier, frozen
from harness_simple_structure.detector import Detector
from harness_simple_structure.sampling import check_ratios
from harness_simple_structure.sets import chosen


class Structure(nn.Module):
    """Answers with the logits of T alone.

    P is in eval mode whatever the mode of the whole, so that its batch norm statistics stand still (in the published
    training they drift). It starts as a copy of T and is `filled` with trained weights when training begins; both are
    part of the saved state. `images` are the stored images of a training, no part of it.
    """

    def __init__(self, network: Classifier, shape: tuple[int, int, int], *, input: str, layers: int) -> None:
        super().__init__()
        self.network = network
        self.clean = copy.deepcopy(network).requires_grad_(False)
        self.detector = Detector(_stage_shapes(network, shape), input=input, layers=layers)
        self.register_buffer("filled", torch.tensor(False))
        self.images = None
        self.train(network.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)

    def train(self, mode: bool = True) -> "Structure":
        super().train(mode)
        self.clean.eval()
        return self


def extend(network, *, shape, classes, ratio, ratio_range, sets, input, layers, **_of_the_step) -> Structure:
    check_ratios(ratio, ratio_range)
    chosen(sets)
    if not isinstance(network, Classifier) or not network.stage_names:
        raise UsageError("simple_structure looks at a network's stages, and this one names none; choose another --arch")
    return Structure(network, shape, input=input, layers=layers)


def deploy(model: Structure, **_params) -> nn.Module:
    return model.network


def clean(model: Structure, **_params) -> nn.Module:
    return model.clean


def _stage_shapes(network: Classifier, shape: tuple[int, int, int]) -> dict[str, tuple[int, int, int]]:
    with frozen(network, training=False), torch.no_grad():
        return {name: tuple(found.shape[1:]) for name, found in network.stages(torch.zeros(1, *shape)).items()}
