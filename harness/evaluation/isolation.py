"""Isolation of foreign code: generators are seeded, output is collected, and the process is put back as it was."""

from __future__ import annotations

import contextlib
import io
import os
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from harness.data.seeds import derive


def seed_generators(*key: Any) -> None:
    """Seed the global generators of torch, NumPy and `random` from anything JSON can hold."""
    seed = derive(*key)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def isolated(*key: Any, collect: bool = True) -> Iterator[io.StringIO]:
    """Seed every global generator from the key, collect what is printed, and put the process back as it was.

    Restored: generators, gradient mode, autocast, default dtype and device, exactness switches, thread count, working
    directory, environment variables and warning filters. Yields the collected output; `collect=False` lets it pass.
    """
    printed = io.StringIO()
    state = _process_state()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        stack.enter_context(warnings.catch_warnings())
        if collect:
            stack.enter_context(contextlib.redirect_stdout(printed))
            stack.enter_context(contextlib.redirect_stderr(printed))
        seed_generators(*key)
        try:
            yield printed
        finally:
            _restore(state)


def _process_state() -> dict[str, Any]:
    return {
        "numpy": np.random.get_state(),
        "random": random.getstate(),
        "folder": os.getcwd(),  # noqa: PTH109
        "environment": dict(os.environ),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": torch.empty(0).device,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "autocast": {kind: torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")},
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32),
    }


def _restore(state: dict[str, Any]) -> None:
    now = _process_state()
    np.random.set_state(state["numpy"])
    random.setstate(state["random"])
    os.chdir(state["folder"])
    if now["environment"] != state["environment"]:
        os.environ.clear()
        os.environ.update(state["environment"])
    torch.set_grad_enabled(state["gradients"])
    torch.set_default_dtype(state["dtype"])
    if now["device"] != state["device"]:
        torch.set_default_device(state["device"])
    torch.use_deterministic_algorithms(state["deterministic"])
    if now["threads"] != state["threads"]:
        torch.set_num_threads(state["threads"])
    if now["precision"] != state["precision"]:
        torch.set_float32_matmul_precision(state["precision"])
    for kind, enabled in state["autocast"].items():
        torch.set_autocast_enabled(kind, enabled)
    cudnn = torch.backends.cudnn
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = state["cudnn"]
