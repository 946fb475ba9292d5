"""Caltech-101 in torchvision's layout, without its background class, scaled to 64x64 pixels.

It has no split of its own: a fifth of each class is ours for the test, and a tenth of the rest for validation. TPAP
used 300x200 pixels, with a network and a budget that its slides do not say.
"""

from pathlib import Path

import numpy as np

from harness.api import DataError, Split
from harness_vision.datasets import slices
from harness_vision.images import coloured

CLASSES = 101
BACKGROUND = "BACKGROUND_Google"
SIDE = 64
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
    home = root / "caltech101" / "101_ObjectCategories"
    files, labels = _listed(home)
    held = len(labels) // TEST_SHARE
    validation = (len(labels) - held) // VALIDATION_SHARE
    sizes = {"train": len(labels) - held - validation, "validation": validation, "test": held}
    chosen = slices("dataset caltech101", home, labels, sizes)[part]
    pixels = coloured("dataset caltech101", home, [files[i] for i in chosen], SIDE, resize=True)
    return Split(pixels=pixels, labels=labels[chosen])


def _listed(home: Path) -> tuple[list[Path], np.ndarray]:
    """Every image with the position of its class among the sorted names of the class folders."""
    found = sorted(path for path in home.glob("[!.]*") if path.is_dir()) if home.is_dir() else []
    classes = [path for path in found if path.name != BACKGROUND]
    if len(classes) != CLASSES:
        raise DataError(f"dataset caltech101: {home} has {len(classes)} class folders. Expected {WANTED}")
    files, labels = [], []
    for label, folder in enumerate(classes):
        images = sorted(folder.glob("[!.]*.jpg"))
        files += images
        labels += [label] * len(images)
    return files, np.array(labels, dtype=np.int64)
