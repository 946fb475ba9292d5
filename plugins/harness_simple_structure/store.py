"""Arrays on disk that are made block by block, so that an interrupted run continues where it stopped."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from harness.api import DataError

BLOCK = 256


class Store:
    """A folder of arrays uint8 (n, ...), each under a key of all that it depends on; without one nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def has(self, name: str, identity: Mapping[str, Any]) -> bool:
        """Tell whether the whole array of this identity is stored."""
        return self.folder is not None and self._file(name, identity).exists()

    def obtain(
        self, name: str, identity: Mapping[str, Any], shape: tuple[int, ...], make: Callable[[slice], np.ndarray]
    ) -> np.ndarray:
        """Return the array of this identity, memory-mapped and read-only; `make` gives the blocks that are missing.

        Raises:
            DataError: where a file is not what it should be.
        """
        spans = [slice(start, min(start + BLOCK, shape[0])) for start in range(0, shape[0], BLOCK)]
        if self.folder is None:
            return np.concatenate([make(span) for span in spans])
        file = self._file(name, identity)
        if not file.exists():
            parts = file.with_suffix("")
            blocks = [parts / f"{span.start:08d}.npy" for span in spans]
            for span, block in zip(spans, blocks, strict=True):
                if not block.exists():
                    _publish(block, make(span))
            _join(file, shape, dict(zip(blocks, spans, strict=True)))
            shutil.rmtree(parts, ignore_errors=True)
        return _read(file, shape)

    def _file(self, name: str, identity: Mapping[str, Any]) -> Path:
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return cast("Path", self.folder) / f"{name}-{key[:16]}.npy"


def _join(file: Path, shape: tuple[int, ...], blocks: Mapping[Path, slice]) -> None:
    """One file of all blocks, without holding them in memory at once."""
    temporary = _temporary(file)
    whole = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
    for block, span in blocks.items():
        whole[span] = _read(block, (span.stop - span.start, *shape[1:]))
    whole.flush()
    os.replace(temporary, file)  # noqa: PTH105


def _publish(file: Path, array: np.ndarray) -> None:
    """Write under another name first, so that a file that is there is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(file)
    with temporary.open("wb") as out:
        np.save(out, array, allow_pickle=False)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, file)  # noqa: PTH105


def _temporary(file: Path) -> Path:
    return file.parent / f"{uuid.uuid4().hex}.tmp"


def _read(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        found: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DataError(f"{file} is damaged ({error}); remove it, and it is made again") from error
    if found.shape != shape or found.dtype != np.uint8:
        raise DataError(f"{file} holds {found.dtype} {found.shape}, not uint8 {shape}; remove it to make it again")
    return found
