"""`folder:PATH`: a folder of class folders, or of train/ and test/ with class folders, or a zip of either.

A zip is read in place, never unpacked. All images must have one size and be all grey or all coloured.
"""

import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath

import numpy as np

from harness.api import DataError, Split
from harness_vision.datasets import cut, stratified
from harness_vision.images import decoded

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm", ".tif", ".tiff"}
"""Those that torchvision's ImageFolder reads."""
TEST_SHARE = 5
VALIDATION_SHARE = 10

Reader = Callable[[], bytes]


def folder(part: str, *, root: Path, location: str) -> Split:
    """Load a part of the dataset at `location`; a fifth is the test part where the folder has none.

    The part `everything` is the test part where there is one, otherwise all images: for networks that need no training
    images here.

    Raises:
        DataError: where it holds no images in class folders, too few, or of different sizes.
    """
    found = _read(Path(location))
    if part == "everything":
        return found.get("test", found["train"])
    if "test" in found:
        whole = found["test" if part == "test" else "train"]
        if part != "test":
            _check_counts(Path(location), whole)
        return whole if part == "test" else cut(whole, part, len(whole.labels) // VALIDATION_SHARE)
    whole = found["train"]
    _check_counts(Path(location), whole)
    held = len(whole.labels) // TEST_SHARE
    indices = stratified(whole.labels, {"train": len(whole.labels) - held, "test": held}, seed=0)
    chosen = indices["test" if part == "test" else "train"]
    split = Split(pixels=whole.pixels[chosen], labels=whole.labels[chosen], notes=whole.notes)
    return split if part == "test" else cut(split, part, len(chosen) // VALIDATION_SHARE)


@lru_cache(maxsize=1)
def _read(path: Path) -> dict[str, Split]:
    """Decode everything: `train` alone, or `train` and `test` where the folder is divided so."""
    files, others = _listed(path)
    left_out = ", ".join(f"{n} {kind}" for kind, n in sorted(others.items()))
    notes = (f"folder:{path}: left out what is no image that is read here: {left_out}",) if others else ()
    divided = {name.parts[0] for name, _ in files} == {"train", "test"} and all(len(n.parts) == 3 for n, _ in files)
    if not divided and not all(len(name.parts) == 2 for name, _ in files):
        raise DataError(f"folder:{path}: images must lie in CLASS/ or in train/CLASS/ and test/CLASS/")
    classes = sorted({name.parts[-2] for name, _ in files})
    sides = {"train": [f for f in files if f[0].parts[0] != "test" or not divided]}
    if divided:
        sides["test"] = [f for f in files if f[0].parts[0] == "test"]
    return {side: replace(_decoded(path, listed, classes), notes=notes) for side, listed in sides.items()}


def _listed(path: Path) -> tuple[list[tuple[PurePosixPath, Reader]], Counter[str]]:
    """List name and reader of every image, sorted by name, and count the other files by their suffix.

    Names are relative; a single common top folder is dropped. Hidden files and those of a Mac's archives do not count.
    """
    if zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        found: list[tuple[PurePosixPath, Reader]] = [
            (PurePosixPath(i.filename), partial(archive.read, i)) for i in archive.infolist() if not i.is_dir()
        ]
    elif path.is_dir():
        found = [(PurePosixPath(p.relative_to(path).as_posix()), p.read_bytes) for p in _files(path)]
    else:
        raise DataError(f"folder:{path}: no such folder or zip file")
    found = [(name, read) for name, read in found if not _hidden(name)]
    others = Counter(name.suffix.lower() or name.name for name, _ in found if name.suffix.lower() not in SUFFIXES)
    found = [(name, read) for name, read in found if name.suffix.lower() in SUFFIXES]
    if not found:
        raise DataError(f"folder:{path}: holds no images ({', '.join(sorted(SUFFIXES))})")
    if len({name.parts[0] for name, _ in found}) == 1 and min(len(name.parts) for name, _ in found) > 2:
        found = [(PurePosixPath(*name.parts[1:]), read) for name, read in found]
    return sorted(found, key=lambda item: item[0]), others


def _files(path: Path) -> Iterator[Path]:
    """Walk through a folder and the folders that it links to, each real folder once on every way down."""
    stack = [(path, frozenset({path.resolve()}))]
    while stack:
        folder, above = stack.pop()
        for entry in folder.iterdir():
            if entry.is_dir():
                real = entry.resolve()
                if real not in above:
                    stack.append((entry, above | {real}))
            elif entry.is_file():
                yield entry


def _hidden(name: PurePosixPath) -> bool:
    """Whether a file is a system's own, such as the forks that a Mac puts into archives."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.parts)


def _check_counts(path: Path, whole: Split) -> None:
    """Raise DataError where some part that is to be cut off would lack a class."""
    counts = np.bincount(whole.labels)
    n, classes = len(whole.labels), len(counts)
    if counts.min() < 3 or n < 2 * TEST_SHARE + VALIDATION_SHARE or n // (TEST_SHARE + VALIDATION_SHARE) < classes:
        raise DataError(
            f"folder:{path}: {n} training images, {counts.min()} of class {counts.argmin()} in the order of the "
            f"folders' names, are too few to cut validation and test slices with all {classes} classes; a network "
            "that brings its weights (--model, --weights) is measured on all of them"
        )


def _decoded(path: Path, files: list[tuple[PurePosixPath, Reader]], classes: list[str]) -> Split:
    images = []
    for name, read in files:
        images.append(np.asarray(decoded(f"folder:{path}", name, read), dtype=np.uint8))
        if images[-1].shape != images[0].shape:
            raise DataError(
                f"folder:{path}: {name} is {images[-1].shape}, {files[0][0]} is {images[0].shape}; "
                "all images must have one size and kind, convert them first"
            )
    pixels = np.stack(images)
    pixels = pixels[:, None] if pixels.ndim == 3 else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    labels = np.array([classes.index(name.parts[-2]) for name, _ in files], dtype=np.int64)
    return Split(pixels=pixels, labels=labels)
