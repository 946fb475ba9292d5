"""Caltech-101 in torchvision's layout, without its background class, scaled to 64x64 or to 300x200 pixels.

It has no split of its own: a fifth of each class is ours for the test, and a tenth of the rest for validation. TPAP's
slides say 300x200, which is about the size of its files, 300 wide and 200 high, and neither network nor budget.
"""

from pathlib import Path

import numpy as np

from harness.api import DataError, Split
from harness_vision.datasets import slices
from harness_vision.images import coloured

CLASSES = 101
BACKGROUND = "BACKGROUND_Google"
SIDE = 64
HEIGHT, WIDTH = 200, 300
TEST_SHARE = 5
VALIDATION_SHARE = 10
WANTED = (
    "under --data-root: caltech101/101_ObjectCategories/CLASS/*.jpg for 101 classes, as unpacked from "
    "101_ObjectCategories.tar.gz in the caltech-101.zip of https://data.caltech.edu/records/mzrjq-6wc02"
)


def caltech101(part: str, *, root: Path, location: str) -> Split:
    """Load a part of Caltech-101; pixels uint8 (n, 3, 64, 64).

    Raises:
        DataError: where folders or images are missing or damaged.
    """
    return _part(part, root, "caltech101", SIDE, SIDE)


def caltech101_large(part: str, *, root: Path, location: str) -> Split:
    """Load a part of Caltech-101 in the size of its files; pixels uint8 (n, 3, 200, 300), the same split.

    Raises:
        DataError: where folders or images are missing or damaged.
    """
    return _part(part, root, "caltech101-300x200", HEIGHT, WIDTH)


def _part(part: str, root: Path, name: str, height: int, width: int) -> Split:
    """The images of a part, every one scaled to the same size, whatever its own proportions."""
    home = root / "caltech101" / "101_ObjectCategories"
    files, labels = _listed(home, name)
    held = len(labels) // TEST_SHARE
    validation = (len(labels) - held) // VALIDATION_SHARE
    sizes = {"train": len(labels) - held - validation, "validation": validation, "test": held}
    chosen = slices(f"dataset {name}", home, labels, sizes)[part]
    pixels = coloured(f"dataset {name}", home, [files[i] for i in chosen], height, width, resize=True)
    return Split(pixels=pixels, labels=labels[chosen])


def _listed(home: Path, name: str) -> tuple[list[Path], np.ndarray]:
    """Every image with the position of its class among the sorted names of the class folders."""
    found = sorted(path for path in home.glob("[!.]*") if path.is_dir()) if home.is_dir() else []
    classes = [path for path in found if path.name != BACKGROUND]
    if len(classes) != CLASSES:
        raise DataError(f"dataset {name}: {home} has {len(classes)} class folders. Expected {WANTED}")
    files, labels = [], []
    for label, folder in enumerate(classes):
        images = sorted(folder.glob("[!.]*.jpg"))
        files += images
        labels += [label] * len(images)
    return files, np.array(labels, dtype=np.int64)
