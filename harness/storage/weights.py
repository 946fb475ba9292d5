"""Weights on disk: safetensors only, hashed over the tensors, compared with the network before anything is copied."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from harness.errors import CheckpointError
from harness.networks import tensors_sha256, why_no_torch_files
from harness.storage import atomic
from harness.storage.fitting import aligned, widened

Tensors = dict[str, torch.Tensor]


def write(path: Path, tensors: Tensors, note: object = None) -> str:
    """Store tensors, with a JSON note in the header; return the sha256 over the tensors."""
    # One metadata key only: the header's order of several is not fixed, and equal weights must be equal bytes.
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"note": json.dumps(note, sort_keys=True)} if note is not None else None
    atomic.replace(path, safetensors.torch.save(stored, metadata))
    return tensors_sha256(stored)


def read(path: Path) -> Tensors:
    """Read a safetensors file.

    Raises:
        CheckpointError: where it is missing, damaged, or of another format; nothing else is ever unpickled.
    """
    if not path.is_file():
        raise CheckpointError(f"weights {path}: no such file")
    if path.suffix != ".safetensors":
        refuse_torch_files(path)
        raise CheckpointError(
            f"weights {path}: only .safetensors files are loaded. Convert a state dict once: "
            f"harness weights convert {path} --sha256 HEX"
        )
    data = path.read_bytes()
    if reason := no_weights(data):
        raise CheckpointError(f"weights {path}: {reason}")
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"weights {path}: damaged ({error}); fetch or train them again") from error


def no_weights(data: bytes) -> str:
    """Say what the bytes of a file are instead of weights, empty where that is unknown."""
    start = data[:200].lstrip().lower()
    if not data:
        return "the file is empty; download it again"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return f"this is a web page ({len(data)} bytes), not weights; download it again"
    if start.startswith(b"version https://git-lfs"):
        return f"this is a pointer of Git LFS ({len(data)} bytes), not weights: run git lfs pull"
    return ""


def read_note(path: Path) -> object:
    """Read the JSON note of a file that `write` wrote, or None.

    Raises:
        CheckpointError: where it is damaged.
    """
    try:
        with safetensors.safe_open(str(path), framework="pt") as opened:
            metadata = opened.metadata() or {}
        return json.loads(metadata["note"]) if "note" in metadata else None
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"weights {path}: damaged ({error}); remove it to start again") from error


def put(model: nn.Module, tensors: Tensors, origin: str, hint: str = "Is --arch right?") -> None:
    """Copy tensors into a network whose names and shapes they match; the hint says what to look at where not.

    Raises:
        CheckpointError: naming what is missing, left over, of another shape or type, or not finite.
    """
    wanted = model.state_dict()
    # Files from before torch counted the batches of a batch norm lack the counters, which decide nothing.
    counters = {name: tensor for name, tensor in wanted.items() if name.endswith(".num_batches_tracked")}
    tensors = {**counters, **widened(aligned(tensors, wanted.keys() - counters.keys()), wanted)}
    missing = sorted(wanted.keys() - tensors.keys())
    extra = sorted(tensors.keys() - wanted.keys())
    shapes = [
        f"{name} is {_kind(tensors[name])}, the network has {_kind(wanted[name])}"
        for name in sorted(wanted.keys() & tensors.keys())
        if _kind(tensors[name]) != _kind(wanted[name])
    ]
    problems = [f"missing {', '.join(missing[:4])}"] * bool(missing) + [f"unknown {', '.join(extra[:4])}"] * bool(extra)
    if problems or shapes:
        raise CheckpointError(
            f"weights {origin} do not fit {type(model).__name__}: {'; '.join(problems + shapes[:4])}. {hint}"
        )
    if broken := [name for name, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()]:
        raise CheckpointError(f"weights {origin}: {broken[0]} holds values that are not finite")
    model.load_state_dict(tensors)


def _kind(tensor: torch.Tensor) -> str:
    """Write shape and type as text: `(10, 64) float32`."""
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def refuse_torch_files(path: Path) -> None:
    """Refuse a torch file where this torch must not load any.

    Raises:
        CheckpointError: with the remedy.
    """
    if path.is_file() and (why := why_no_torch_files()):
        raise CheckpointError(
            f"weights {path}: {why}. Convert it on torch 2.10 or newer: harness weights convert {path} --sha256 HEX"
        )
