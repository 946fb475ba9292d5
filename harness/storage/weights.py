"""Weights on disk: safetensors only, hashed over the tensors, compared with the network before anything is copied."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from harness.errors import CheckpointError
from harness.networks import tensors_sha256, why_no_torch_files
from harness.storage import atomic

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
        _refuse_torch_files(path)
        raise CheckpointError(
            f"weights {path}: only .safetensors files are loaded. Convert a state dict once: "
            f"harness weights convert {path} --sha256 HEX"
        )
    data = path.read_bytes()
    if data[8:9] != b"{" and data.lstrip()[:1] == b"<":
        raise CheckpointError(f"weights {path}: this is a web page ({len(data)} bytes), not weights; download it again")
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"weights {path}: damaged ({error}); fetch or train them again") from error


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
    tensors = {**counters, **tensors}
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


def _renamed(name: str, rename: Mapping[str, str]) -> str:
    for old, new in rename.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _kind(tensor: torch.Tensor) -> str:
    """Write shape and type as text: `(10, 64) float32`."""
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def convert(source: Path, target: Path, sha256: str, rename: Mapping[str, str] | None = None) -> str:
    """Turn a foreign torch state dict into safetensors; return the sha256 over the tensors. See `read_foreign`."""
    return write(target, read_foreign(source, sha256, rename))


def read_foreign(source: Path, sha256: str, rename: Mapping[str, str] | None = None) -> Tensors:
    """Read a torch state dict of somebody else, its names without the `module.` of parallel training.

    Loads with `weights_only=True`, never otherwise, on torch 2.10 or newer, and only a file whose bytes have the
    expected sha256.
    `rename`: beginnings of names -> what stands there instead.

    Raises:
        CheckpointError: where torch is older, the hash differs, the file needs unpickling, or holds no flat state dict.
    """
    _refuse_torch_files(source)
    data = pinned(source, sha256)
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for foreign bytes; all mean the same to the user
        raise CheckpointError(
            f"weights {source}: not a plain state dict ({type(error).__name__}); it would run code to load, "
            "which the harness never does. Ask its publisher for a state dict"
        ) from error
    tensors = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise CheckpointError(f"weights {source}: holds no dictionary of tensors")
    # Copies, because tied tensors share memory and safetensors refuses to guess which is meant.
    bare = {_renamed(str(name).removeprefix("module."), rename or {}): t.clone() for name, t in tensors.items()}
    if len(bare) != len(tensors) or not all(isinstance(name, str) for name in tensors):
        raise CheckpointError(
            f"weights {source}: its names are not text, or collide once 'module.' and --rename are done"
        )
    return bare


def _refuse_torch_files(path: Path) -> None:
    if path.is_file() and (why := why_no_torch_files()):
        raise CheckpointError(
            f"weights {path}: {why}. Convert it on torch 2.10 or newer: harness weights convert {path} --sha256 HEX"
        )


def pinned(path: Path, sha256: str) -> bytes:
    """Read the bytes of a file that must have the given sha256.

    Raises:
        CheckpointError: where it is missing or has another one, which is told.
    """
    if not path.is_file():
        raise CheckpointError(f"weights {path}: no such file")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256.lower():
        raise CheckpointError(
            f"weights {path}: the file's sha256 is {found}. Compare it with what its publisher states, "
            f"then run it again with --sha256 {found}"
        )
    return data
