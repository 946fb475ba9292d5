"""The machine: which device, exact arithmetic, and a stamp of what ran where."""

from __future__ import annotations

import platform
from typing import TypedDict

import torch

from harness.errors import UsageError
from harness.version import __version__


def pick_device(name: str) -> torch.device:
    """Find the device of that name; `auto` takes a GPU where there is one.

    Raises:
        UsageError: where this torch has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


def make_reproducible() -> None:
    """Switch the process to exact arithmetic instead of fast: no TF32, no autotuned kernels."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def describe(device: torch.device) -> str:
    """Describe the device in a few words: the name of the GPU, or the type and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


class Environment(TypedDict):
    """What ran where: versions, machine, device and threads."""

    harness: str
    python: str
    torch: str
    machine: str
    device: str
    threads: int


def environment(device: torch.device) -> Environment:
    """Take the stamp of this machine and its libraries."""
    return {
        "harness": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": describe(device),
        "threads": torch.get_num_threads(),
    }
