"""The contract between network architectures and everything that looks inside them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.torch_version import TorchVersion

from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.types import Images, Logits

__all__ = ["Classifier", "frozen", "parameter_count", "settle", "stage_outputs", "tensors_sha256", "why_no_torch_files"]


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


def settle(model: nn.Module) -> nn.Module:
    """Put a network into eval mode for good, its parameters frozen, in place; whatever its own methods return."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def tensors_sha256(tensors: Mapping[str, object]) -> str:
    """Digest a state dict: the sha256, in hex, over names, dtypes, shapes and bytes of tensors, sorted by name.

    What is no plain tensor, as extra state and the packed weights of quantised layers are, is digested by content.

    Raises:
        HarnessError: for a value whose content cannot be told.
    """
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        if isinstance(value, torch.Tensor) and not value.is_quantized:
            tensor = value.detach().cpu().contiguous()
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            total.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
        else:
            total.update(f"{name} {_content(value, name)}\n".encode())
    return total.hexdigest()


def _content(value: object, name: str) -> str:
    """Write a value of a state dict as text that is the same wherever its content is."""
    if isinstance(value, torch.Tensor):
        if not value.is_quantized:
            return tensors_sha256({"": value})
        parts: dict[str, object] = {"values": value.int_repr()}
        if value.qscheme() in (torch.per_channel_affine, torch.per_channel_affine_float_qparams):
            parts |= {"scales": value.q_per_channel_scales(), "zero_points": value.q_per_channel_zero_points()}
            parts["axis"] = value.q_per_channel_axis()
        else:
            parts |= {"scale": value.q_scale(), "zero_point": value.q_zero_point()}
        return f"{value.dtype} {tensors_sha256(parts)}"
    if isinstance(value, str | bytes | bool | int | float | complex | type(None) | torch.dtype):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        if not array.dtype.hasobject:
            return f"array {array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    if isinstance(value, list | tuple):
        return f"list {[_content(one, name) for one in value]}"
    if isinstance(value, Mapping):
        return f"mapping {sorted((_content(key, name), _content(one, name)) for key, one in value.items())}"
    if isinstance(value, set | frozenset):
        return f"set {sorted(_content(one, name) for one in value)}"
    if isinstance(value, io.BytesIO):
        return f"bytes {hashlib.sha256(value.getvalue()).hexdigest()}"
    raise HarnessError(
        f"its state dict holds a {type(value).__name__} as '{name}', whose content cannot be hashed: let "
        "get_extra_state return numbers, text, tensors, or lists and dicts of them"
    )


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
