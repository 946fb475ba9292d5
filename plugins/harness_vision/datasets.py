"""Loads the named datasets. Validation images are always cut from the training split."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.api import DataError, Split

if TYPE_CHECKING:
    from collections.abc import Callable

VALIDATION = 1000
DIGITS_SIZES = {"train": 1097, "validation": 200, "test": 500}


def digits(part: str, *, root: Path, location: str) -> Split:
    """Load a part of scikit-learn's digits; pixels uint8 (n, 1, 8, 8) with 16 levels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = images.reshape(-1, 1, 8, 8).astype(np.uint8)
    chosen = stratified(labels, DIGITS_SIZES, seed=0)[part]
    return Split(pixels=pixels[chosen], labels=labels[chosen].astype(np.int64), levels=16)


def mnist(part: str, *, root: Path, location: str) -> Split:
    """Load a part of MNIST; downloads it where it is missing."""
    return _torchvision("MNIST", part, root)


def fashion_mnist(part: str, *, root: Path, location: str) -> Split:
    """Load a part of Fashion-MNIST; downloads it where it is missing."""
    return _torchvision("FashionMNIST", part, root)


def svhn(part: str, *, root: Path, location: str) -> Split:
    """Load a part of SVHN; downloads it where it is missing."""
    return _torchvision("SVHN", part, root)


def cifar10(part: str, *, root: Path, location: str) -> Split:
    """Load a part of CIFAR-10; downloads it where it is missing."""
    return _torchvision("CIFAR10", part, root)


def cifar100(part: str, *, root: Path, location: str) -> Split:
    """Load a part of CIFAR-100; downloads it where it is missing."""
    return _torchvision("CIFAR100", part, root)


def stratified(labels: np.ndarray, sizes: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    """Split indices into disjoint, sorted parts, every class as close to its share as whole images allow."""
    from sklearn.model_selection import train_test_split

    names = list(sizes)
    rest = np.arange(len(labels))
    parts = {}
    for name in names[:0:-1]:
        rest, taken = train_test_split(rest, test_size=sizes[name], random_state=seed, stratify=labels[rest])
        parts[name] = np.sort(taken)
    parts[names[0]] = np.sort(rest)
    return parts


def slices(dataset: str, home: Path, labels: np.ndarray, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Split files of a folder by `stratified` with seed 0.

    Raises:
        DataError: where they are too few, as after an interrupted extraction.
    """
    try:
        return stratified(labels, sizes, seed=0)
    except ValueError as error:
        raise DataError(
            f"{dataset}: the {len(labels)} images in {home} are too few to cut {sizes} with all classes in each "
            f"({error}); extract the archive again"
        ) from error


def cut(split: Split, part: str, size: int) -> Split:
    """Cut a stratified slice of `size` images off a training split: `validation` is the slice, `train` the rest."""
    parts = stratified(split.labels, {"train": len(split.labels) - size, "validation": size}, seed=0)
    chosen = parts[part]
    return Split(pixels=split.pixels[chosen], labels=split.labels[chosen], levels=split.levels)


def _torchvision(name: str, part: str, root: Path) -> Split:
    import torchvision

    kind = getattr(torchvision.datasets, name)
    which: dict[str, object]
    which = {"split": "test" if part == "test" else "train"} if name == "SVHN" else {"train": part != "test"}
    try:
        data = _opened(kind, root, which)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"dataset {name}: not found under {root} and could not be downloaded ({type(error).__name__}: {error}). "
            f"Give the folder that holds it, in torchvision's layout, with --data-root"
        ) from error
    pixels = np.asarray(data.data)
    labels = np.asarray(data.labels if name == "SVHN" else data.targets, dtype=np.int64)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif name != "SVHN":
        pixels = pixels.transpose(0, 3, 1, 2)
    split = Split(pixels=np.ascontiguousarray(pixels), labels=labels)
    return split if part == "test" else cut(split, part, VALIDATION)


def _opened(kind: Callable[..., Any], root: Path, which: dict[str, object]) -> Any:
    """What is on disk, otherwise a download."""
    try:
        return kind(root=str(root), download=False, **which)
    except RuntimeError:
        return kind(root=str(root), download=True, **which)
