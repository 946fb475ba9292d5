"""Weights of somebody else: pinned by their sha256, read without running anything, refused with the true reason."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.errors import CheckpointError
from harness.storage.fitting import unwrapped
from harness.storage.weights import Tensors, no_weights, read, refuse_torch_files, write

NUMBERS: list[Any] = [
    np.dtype, *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd"),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]  # fmt: skip
"""What NumPy's numbers are made of in a file: an accuracy or an epoch beside the tensors runs no code."""


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
    if reason := no_weights(data) or _script(data):
        raise CheckpointError(f"weights {source}: {reason}")
    try:
        with torch.serialization.safe_globals(NUMBERS):
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for foreign bytes; all mean the same to the user
        raise CheckpointError(_unreadable(source, error)) from error
    tensors = _state_dict(source, loaded)
    # Copies, because tied tensors share memory and safetensors refuses to guess which is meant.
    bare = {_renamed(str(name).removeprefix("module."), rename or {}): t.clone() for name, t in tensors.items()}
    if len(bare) != len(tensors) or not all(isinstance(name, str) for name in tensors):
        raise CheckpointError(
            f"weights {source}: its names are not text, or collide once 'module.' and --rename are done"
        )
    return bare


def _script(data: bytes) -> str:
    """Say that a file is a TorchScript archive, which is code and weights together; empty where it is not."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):  # No archive, or a damaged one.
        return ""
    if not any("/code/" in name for name in names):
        return ""
    return (
        "this is a TorchScript archive, which holds code beside the weights: give a function that returns "
        "torch.jit.load(FILE) to --model, without --weights"
    )


def _unreadable(source: Path, error: Exception) -> str:
    """Say why a file is no plain state dict, as far as it can be told without running it."""
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
    if "state_dict" in found:  # An optimizer's is no candidate, an average of the same weights is.
        names = _bare(loaded["state_dict"])
        found = [key for key in found if names & _bare(loaded[key])]
    if len(found) == 1:
        inner: dict[str, torch.Tensor] = loaded[found[0]]
        return inner
    keys = ", ".join(map(str, list(loaded)[:8])) or "nothing"
    which = f"several dictionaries of tensors ({', '.join(map(str, found))})" if found else "no dictionary of tensors"
    raise CheckpointError(
        f"weights {source}: holds {which}; its keys are {keys}. Save the one that is meant "
        f"alone: torch.save(torch.load('{source.name}', weights_only=True)['{found[0] if found else 'KEY'}'], 'one.pt')"
    )


def _bare(tensors: dict[object, object]) -> set[str]:
    return {unwrapped(str(name)) for name in tensors}


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
