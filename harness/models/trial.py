"""Trying a user's network out before any work: either it can be judged and attacked, or the true reason is told."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from harness.errors import UsageError
from harness.evaluation.alone import answered_alone
from harness.evaluation.judge import InvalidModel, Judge
from harness.evaluation.oracle import Oracle, fingerprint
from harness.models.factory import told
from harness.networks import settle

TRIAL_PASSES = 2


def whole(network: nn.Module, shape: tuple[int, int, int], text: str) -> nn.Module:
    """Make a network that the harness can hold: lazy layers are given their shapes, a compiled one is the one inside.

    Raises:
        UsageError: where a forward pass does not give every lazy layer its shape.
    """
    # Compilation changes nothing but speed, and a compiled network cannot be copied on every machine.
    inner = getattr(network, "_orig_mod", None)
    network = inner if isinstance(inner, nn.Module) else network
    if not _lazy(network):
        return network
    why = ""
    network.eval()
    try:
        with torch.no_grad():
            network(torch.zeros(2, *shape))
    except Exception as error:
        why = f" ({told(error)})"
    if left := _lazy(network):
        raise UsageError(
            f"--model {text}: its lazy layers have no shape yet ({', '.join(left[:3])}), and a pass over images of "
            f"shape {shape} gives them none{why}: run the network on one image before the factory returns it"
        )
    return network


def try_out(network: nn.Module, shape: tuple[int, int, int], classes: int, text: str) -> None:
    """Judge a network on a few canaries, together and alone, copy it, and hash what it holds.

    Raises:
        UsageError: with the step that failed, and why.
    """
    try:
        settle(network)
        _forward(network, shape)
        judge = Judge(network, classes, shape, passes=TRIAL_PASSES)
        answered_alone(judge, judge.canaries)
        fingerprint(network)
    except InvalidModel as error:
        raise UsageError(f"--model {text}: {error}") from error
    except UsageError as error:
        raise UsageError(f"--model {text}: {error}") from error
    except Exception as error:
        raise UsageError(f"--model {text}: the network cannot be judged ({told(error)})") from error
    try:
        Oracle(network, "gradient")
    except Exception as error:
        raise UsageError(
            f"--model {text}: the network cannot be copied, and attacks get a copy ({told(error)}). Keep in it what "
            "copy.deepcopy copies: modules, parameters, buffers and plain values"
        ) from error


def _forward(network: nn.Module, shape: tuple[int, int, int]) -> None:
    """Ask for one pass.

    Raises:
        UsageError: where it fails, with the types of numbers that the network holds where these are not float32.
    """
    try:
        with torch.no_grad():
            network(torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)))
    except Exception as error:
        tensors = [*network.parameters(), *network.buffers()]
        others = sorted({str(t.dtype) for t in tensors if t.is_floating_point() and t.dtype != torch.float32})
        mend = f". It holds {', '.join(others)}, images are float32: call .float() on the network" if others else ""
        devices = sorted({str(t.device) for t in tensors if t.device.type != "cpu"})
        mend += f". It lies on {', '.join(devices)}: return it on the CPU, --device moves it" if devices else ""
        raise UsageError(f"cannot take images of shape {shape} ({told(error)}){mend}") from error


def _lazy(network: nn.Module) -> list[str]:
    """Name the parameters and buffers without a shape."""
    named = [*network.named_parameters(), *network.named_buffers()]
    return [name for name, tensor in named if is_lazy(tensor)]
