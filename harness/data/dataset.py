"""Datasets in memory: loaded once, hashed, and put into a fixed order, of which limited runs take the first images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.data.seeds import permutation
from harness.errors import DataError
from harness.types import Dataset, Split

if TYPE_CHECKING:
    from harness.types import Images, Labels

SHARD = 250
"""How many consecutive images of the fixed order make one shard."""


@dataclass(slots=True)
class LoadedPart:
    """One part of a dataset with the sha256 of its decoded pixels and labels."""

    split: Split
    sha256: str

    def __len__(self) -> int:
        return len(self.split.labels)

    def batch(self, examples: np.ndarray | slice, device: torch.device) -> tuple[Images, Labels]:
        """Load examples by their index in the split: images float32 (n, c, h, w) in [0, 1] and labels int64 (n,)."""
        pixels = torch.from_numpy(self.split.pixels[examples]).to(device)
        labels = torch.from_numpy(self.split.labels[examples]).to(device)
        return pixels.float() / self.split.levels, labels


@dataclass(slots=True)
class LoadedDataset:
    """A dataset whose parts are loaded when first asked for.

    `everything`: no network needs training images, so that all images are test images.
    """

    spec: Dataset
    name: str
    root: Path
    location: str = ""
    everything: bool = False
    _parts: dict[str, LoadedPart] = field(default_factory=dict)

    def part(self, name: str) -> LoadedPart:
        """Load `train`, `validation` or `test`, check it and hash it.

        Raises:
            DataError: where it cannot be read, or is not what a `Split` promises.
        """
        if name not in self._parts:
            asked = "everything" if name == "test" and self.everything else name
            split = self.spec.load(asked, root=self.root, location=self.location)
            _check(self.name, name, split, self.spec.classes)
            self._parts[name] = LoadedPart(split, split_sha256(split))
        return self._parts[name]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (c, h, w) of one image; read from the training images where the dataset does not declare it."""
        return self.spec.shape or self.part(self._telling).split.pixels.shape[1:]

    @property
    def classes(self) -> int:
        """The number of classes; the largest training label plus one where the dataset does not declare it."""
        return self.spec.classes or int(self.part(self._telling).split.labels.max()) + 1

    @property
    def _telling(self) -> str:
        """The part that tells shape and classes where the dataset does not declare them."""
        return "test" if self.everything else "train"

    def order(self) -> np.ndarray:
        """Compute the fixed order of the test images, int64 (n,): position -> index in the split."""
        return permutation(len(self.part("test")), "test")


def split_sha256(split: Split) -> str:
    """Hash a split: the sha256, in hex, over shape, levels, labels and pixels in index order."""
    header = f"{split.pixels.shape} {split.levels}\n".encode()
    total = hashlib.sha256(header)
    total.update(np.ascontiguousarray(split.labels, dtype="<i8").tobytes())
    total.update(np.ascontiguousarray(split.pixels).tobytes())
    return total.hexdigest()


def shards(n: int) -> list[tuple[int, int]]:
    """Cut the first n positions of the fixed order into shards [start, stop) of `SHARD` images, or less in the last."""
    return [(start, min(start + SHARD, n)) for start in range(0, n, SHARD)]


def _check(dataset: str, part: str, split: Split, classes: int | None) -> None:
    pixels, labels = split.pixels, split.labels
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or labels.dtype != np.int64 or labels.shape != pixels.shape[:1]:
        raise DataError(
            f"dataset '{dataset}', {part}: pixels must be uint8 (n, c, h, w) and labels int64 (n,), "
            f"not {pixels.dtype} {pixels.shape} and {labels.dtype} {labels.shape}"
        )
    if not len(labels) or labels.min() < 0 or pixels.max(initial=0) > split.levels:
        raise DataError(f"dataset '{dataset}', {part}: empty, negative labels, or pixels above {split.levels}")
    if classes is not None and labels.max() >= classes:
        raise DataError(
            f"dataset '{dataset}', {part}: labels {labels.min()} to {labels.max()}, but {classes} classes: "
            f"labels count from 0 to {classes - 1}"
        )
