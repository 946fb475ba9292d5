"""Tiny-ImageNet in the layout of its archive.

The labels of its test images were never published, so its official validation images are our test images, as in the
papers; ours for validation are cut from the training images.
"""

from pathlib import Path

import numpy as np

from harness.api import DataError, Split
from harness_vision.datasets import VALIDATION, slices
from harness_vision.images import coloured

CLASSES = 200
SIDE = 64
WANTED = (
    "under --data-root: tiny-imagenet-200/train/CLASS/images/*.JPEG for 200 classes, "
    "tiny-imagenet-200/val/images/*.JPEG and tiny-imagenet-200/val/val_annotations.txt, "
    "as unpacked from http://cs231n.stanford.edu/tiny-imagenet-200.zip"
)


def tiny_imagenet(part: str, *, root: Path, location: str) -> Split:
    """Load a part of Tiny-ImageNet; pixels uint8 (n, 3, 64, 64).

    Raises:
        DataError: where folders or images are missing or damaged.
    """
    home = root / "tiny-imagenet-200"
    classes = _classes(home)
    files, labels = _annotated(home, classes) if part == "test" else _training(home, classes)
    if part != "test":
        sizes = {"train": len(labels) - VALIDATION, "validation": VALIDATION}
        chosen = slices("dataset tiny-imagenet", home, labels, sizes)[part]
        files, labels = [files[i] for i in chosen], labels[chosen]
    return Split(pixels=coloured("dataset tiny-imagenet", home, files, SIDE, SIDE, resize=False), labels=labels)


def _classes(home: Path) -> list[str]:
    """The names of the class folders, sorted: a label is a position in this list."""
    folder = home / "train"
    found = sorted(path.name for path in folder.glob("[!.]*") if path.is_dir()) if folder.is_dir() else []
    if len(found) != CLASSES:
        raise DataError(f"dataset tiny-imagenet: {folder} has {len(found)} class folders. Expected {WANTED}")
    return found


def _training(home: Path, classes: list[str]) -> tuple[list[Path], np.ndarray]:
    files, labels = [], []
    for label, name in enumerate(classes):
        found = sorted((home / "train" / name / "images").glob("[!.]*.JPEG"))
        if not found:
            raise DataError(
                f"dataset tiny-imagenet: no images in {home / 'train' / name / 'images'}. Expected {WANTED}"
            )
        files += found
        labels += [label] * len(found)
    return files, np.array(labels, dtype=np.int64)


def _annotated(home: Path, classes: list[str]) -> tuple[list[Path], np.ndarray]:
    """The validation images in the order of their annotations: lines of file name, class and a box, with tabs."""
    notes = home / "val" / "val_annotations.txt"
    if not notes.is_file():
        raise DataError(f"dataset tiny-imagenet: {notes} is missing. Expected {WANTED}")
    number = {name: label for label, name in enumerate(classes)}
    rows = [line.split("\t") for line in notes.read_text("utf-8", "replace").splitlines() if line.strip()]
    if odd := next((row for row in rows if len(row) < 2 or row[1] not in number), None):
        raise DataError(f"dataset tiny-imagenet: {notes} has a line without a known class: {' '.join(odd)}")
    files = [home / "val" / "images" / row[0] for row in rows]
    if gone := next((path for path in files if not path.is_file()), None):
        raise DataError(f"dataset tiny-imagenet: {gone} is annotated and missing. Expected {WANTED}")
    return files, np.array([number[row[1]] for row in rows], dtype=np.int64)
