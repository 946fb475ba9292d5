"""Weights of somebody else: pinned by their sha256, read without running anything, refused with the true reason."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from harness.errors import CheckpointError
from harness.storage.weights import Tensors, read, refuse_torch_files, write


def convert(source: Path, target: Path, sha256: str, rename: Mapping[str, str] | None = None) -> str:
    """Turn a foreign torch state dict into safetensors; return the sha256 over the tensors. See `read_foreign`.

    A safetensors file may be renamed in the same way.
    """
    if source.suffix == ".safetensors":
        pinned(source, sha256)
        return write(target, {_renamed(name, rename or {}): tensor for name, tensor in read(source).items()})
    return write(target, read_foreign(source, sha256, rename))


def read_foreign(source: Path, sha256: str, rename: Mapping[str, str] | None = None) -> Tensors:
    """Read a torch state dict of somebody else, its names without the `module.` of parallel training.

    Loads with `weights_only=True`, never otherwise, on torch 2.10 or newer, and only a file whose bytes have the
    expected sha256.
    `rename`: beginnings of names -> what stands there instead.

    Raises:
        CheckpointError: where torch is older, the hash differs, the file needs unpickling, or holds no flat state dict.
    """
    refuse_torch_files(source)
    data = pinned(source, sha256)
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for foreign bytes; all mean the same to the user
        raise CheckpointError(_unreadable(source, data, error)) from error
    tensors = _state_dict(source, loaded)
    # Copies, because tied tensors share memory and safetensors refuses to guess which is meant.
    bare = {_renamed(str(name).removeprefix("module."), rename or {}): t.clone() for name, t in tensors.items()}
    if len(bare) != len(tensors) or not all(isinstance(name, str) for name in tensors):
        raise CheckpointError(
            f"weights {source}: its names are not text, or collide once 'module.' and --rename are done"
        )
    return bare


def _unreadable(source: Path, data: bytes, error: Exception) -> str:
    """Say why a file is no plain state dict, as far as it can be told without running it."""
    start = data[:200].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return f"weights {source}: this is a web page ({len(data)} bytes), not weights; download it again"
    if start.startswith(b"version https://git-lfs"):
        return f"weights {source}: this is a pointer of Git LFS ({len(data)} bytes), not weights: run git lfs pull"
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    beside = f"it holds {named[1]} beside tensors, and that" if named else "it"
    return (
        f"weights {source}: not a plain state dict ({type(error).__name__}); {beside} would run code to load, "
        "which the harness never does. Ask its publisher for a state dict, or save that alone: "
        "torch.save(network.state_dict(), FILE)"
    )


def _state_dict(source: Path, loaded: object) -> dict[str, torch.Tensor]:
    """Find the one dictionary of tensors in what a file holds: itself, or one of its entries.

    Raises:
        CheckpointError: where there is none, or several, naming what is there.
    """
    if not isinstance(loaded, dict):
        raise CheckpointError(f"weights {source}: holds no dictionary of tensors, but a {type(loaded).__name__}")
    if "state_dict" not in loaded and _is_state_dict(loaded):
        return loaded
    found = [key for key, value in loaded.items() if isinstance(value, dict) and value and _is_state_dict(value)]
    if "state_dict" in found:
        found = ["state_dict"]
    if len(found) == 1:
        inner: dict[str, torch.Tensor] = loaded[found[0]]
        return inner
    keys = ", ".join(map(str, list(loaded)[:8])) or "nothing"
    which = f"several dictionaries of tensors ({', '.join(map(str, found))})" if found else "no dictionary of tensors"
    raise CheckpointError(f"weights {source}: holds {which}; its keys are {keys}. Save the one that is meant alone")


def _is_state_dict(value: dict[str, object]) -> bool:
    return all(isinstance(tensor, torch.Tensor) for tensor in value.values())


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


def _renamed(name: str, rename: Mapping[str, str]) -> str:
    for old, new in rename.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
