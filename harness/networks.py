"""The contract between network architectures and everything that looks inside them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.torch_version import TorchVersion

if TYPE_CHECKING:
    from harness.types import Images, Logits

__all__ = ["Classifier", "frozen", "parameter_count", "stage_outputs", "tensors_sha256", "why_no_torch_files"]


class Classifier(nn.Module):
    """A network whose prediction is one linear layer on penultimate features.

    Subclasses set `head` and `stage_names` (submodules, shallow to deep, by the names of `named_modules`) and implement
    `features`. Images come in [0, 1]; a network that wants normalised input normalises inside `features`.
    """

    head: nn.Linear
    stage_names: tuple[str, ...]

    def features(self, x: Images) -> torch.Tensor:
        """Compute the penultimate features (n, d) of images (n, c, h, w): what the head sees.

        Raises:
            NotImplementedError: where a subclass does not implement it.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement features")

    def forward(self, x: Images) -> Logits:
        """Compute the logits (n, k) of images (n, c, h, w) in [0, 1]."""
        logits: Logits = self.head(self.features(x))
        return logits

    def stages(self, x: Images) -> dict[str, torch.Tensor]:
        """Compute the outputs of the named stages for images (n, c, h, w), by name, in the order in which they ran."""
        with stage_outputs(self) as found:
            self.features(x)
        return found


@contextmanager
def stage_outputs(network: Classifier) -> Iterator[dict[str, torch.Tensor]]:
    """Collect the output of each named stage, by name, while the network is used inside the block.

    The dictionary fills as stages run; one that runs again replaces its output. Outputs keep their graph.

    Raises:
        AttributeError: where a name of `stage_names` is no submodule.
    """
    found: dict[str, torch.Tensor] = {}
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: found.__setitem__(name, output)
        )
        for name in network.stage_names
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def parameter_count(model: nn.Module) -> int:
    """Count the numbers in a network's parameters, frozen ones included, buffers not."""
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def frozen(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Hold every submodule in train or eval mode, with parameters frozen; restore both exactly after the block."""
    modes = [(module, module.training) for module in model.modules()]
    needed = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.train(training)
    model.requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, requires in needed:
            parameter.requires_grad_(requires)


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Digest a state dict: the sha256, in hex, over names, dtypes, shapes and bytes of tensors, sorted by name."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return total.hexdigest()


def why_no_torch_files() -> str:
    """Say why torch's own files (.pt, .pth, .th, .bin) are not loaded here; empty where they are.

    Before 2.10 `weights_only=True` could be made to run code: CVE-2025-32434, CVE-2026-24747.
    """
    if TorchVersion(torch.__version__) >= "2.10":
        return ""
    return (
        f"only .safetensors files are loaded below torch 2.10, and this is {torch.__version__}: "
        "a torch file can run code there, even with weights_only=True"
    )
