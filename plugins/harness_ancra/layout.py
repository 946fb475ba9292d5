"""Finds where reverse attention goes in a network, by asking the network once."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from harness.api import UsageError
from harness.networks import Classifier, frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a network has room for reverse attention.

    `blocks`: names of the modules that are followed by reverse attention, first to last. `kernel`: height and width of
    the squares of their maps that are averaged into one feature. `norm`: name of the batch norm between the last block
    and the averages, which a ReLU follows; empty without one.
    """

    blocks: tuple[str, ...]
    kernel: tuple[int, int]
    norm: str


def find_layout(network: nn.Module, shape: tuple[int, int, int]) -> Layout:
    """Find where the features of a network are averages over squares of the map that its last stage gives.

    The blocks are the last two of that stage where it is a sequence of blocks: layer4.0 and layer4.1 of resnet18,
    layer3.3 and layer3.4 of wrn34_10, layer4.0 and layer4.1 of preact_resnet18; the maps of the latter two networks
    first pass the last batch norm and a ReLU. Otherwise it is the stage as a whole: layer3 of digits_net, layer5 of
    vgg16. Features may be means over the map, over squares of it (4x4 in preact_resnet18), or the flattened map.

    Raises:
        UsageError: where the head sees something else, such as hidden layers or maxima.
    """
    if not isinstance(network, Classifier):
        raise UsageError(
            "ancra needs named stages and a linear head, those of a harness.networks.Classifier, which "
            f"{type(network).__name__} is not; choose another --arch"
        )
    last = network.stage_names[-1]
    blocks = _blocks(network.get_submodule(last), last)
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    maps: dict[str, torch.Tensor] = {}
    with frozen(network, training=False), torch.no_grad():
        with followed(network, (last, *blocks), maps.__setitem__):
            features = network.features(x)
        if any(maps[block].shape != maps[last].shape for block in blocks):
            blocks = (last,)
        for norm in ("", *_norms(network, maps[last])):
            z = F.relu(network.get_submodule(norm)(maps[last])) if norm else maps[last]
            for kernel in _kernels(z, features):
                if torch.allclose(F.avg_pool2d(z, kernel).flatten(1), features, rtol=1e-4, atol=1e-5):
                    return Layout(blocks=blocks, kernel=kernel, norm=norm)
    raise UsageError(
        f"ancra multiplies the map of the last stage by weights of the head, and the head of {type(network).__name__} "
        f"does not see averages over the map of {last}; choose another --arch, such as resnet18"
    )


@contextmanager
def followed(
    network: nn.Module, names: Iterable[str], act: Callable[[str, torch.Tensor], torch.Tensor | None]
) -> Iterator[None]:
    """Call `act(name, output)` after each named module inside the block; a tensor it returns replaces the output."""
    handles = [
        network.get_submodule(name).register_forward_hook(lambda _module, _inputs, output, name=name: act(name, output))
        for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _blocks(stage: nn.Module, name: str) -> tuple[str, ...]:
    """The last two blocks of a stage, a block being a module of modules, or the stage itself."""
    children = list(stage.named_children()) if isinstance(stage, nn.Sequential) else []
    composed = [f"{name}.{child}" for child, module in children if list(module.children())]
    return tuple(composed[-2:]) if composed and len(composed) == len(children) else (name,)


def _norms(network: Classifier, z: torch.Tensor) -> Iterator[str]:
    """Batch norms that would take the map z and belong to no stage."""
    for name, module in network.named_modules():
        inside = any(name == stage or name.startswith(f"{stage}.") for stage in network.stage_names)
        if isinstance(module, nn.BatchNorm2d) and z.dim() == 4 and module.num_features == z.shape[1] and not inside:
            yield name


def _kernels(z: torch.Tensor, features: torch.Tensor) -> Iterator[tuple[int, int]]:
    """The whole map, or squares of it, that give as many averages as there are features."""
    if z.dim() != 4:
        return
    height, width = z.shape[2:]
    for down, right in ((height, width), *((side, side) for side in range(1, min(height, width)))):
        if z.shape[1] * (height // down) * (width // right) == features.shape[1]:
            yield down, right
