"""`folder:PATH`: a folder of class folders, or of train/ and test/ with class folders, or a zip of either.

A zip is read in place, never unpacked. All images must have one size and be all grey or all coloured.
"""

import zipfile
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath

import numpy as np

from harness.api import DataError, Split
from harness_vision.datasets import cut, stratified
from harness_vision.images import decoded

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm"}
TEST_SHARE = 5
VALIDATION_SHARE = 10

Reader = Callable[[], bytes]


def folder(part: str, *, root: Path, location: str) -> Split:
    """Load a part of the dataset at `location`; a fifth is the test part where the folder has none.

    Raises:
        DataError: where it holds no images in class folders, too few, or of different sizes.
    """
    found = _read(Path(location))
    if "test" in found:
        whole = found["test" if part == "test" else "train"]
        return whole if part == "test" else cut(whole, part, len(whole.labels) // VALIDATION_SHARE)
    whole = found["train"]
    held = len(whole.labels) // TEST_SHARE
    indices = stratified(whole.labels, {"train": len(whole.labels) - held, "test": held}, seed=0)
    chosen = indices["test" if part == "test" else "train"]
    split = Split(pixels=whole.pixels[chosen], labels=whole.labels[chosen])
    return split if part == "test" else cut(split, part, len(chosen) // VALIDATION_SHARE)


@lru_cache(maxsize=1)
def _read(path: Path) -> dict[str, Split]:
    """Decode everything: `train` alone, or `train` and `test` where the folder is divided so."""
    files = _listed(path)
    divided = {name.parts[0] for name, _ in files} == {"train", "test"} and all(len(n.parts) == 3 for n, _ in files)
    if not divided and not all(len(name.parts) == 2 for name, _ in files):
        raise DataError(f"folder:{path}: images must lie in CLASS/ or in train/CLASS/ and test/CLASS/")
    classes = sorted({name.parts[-2] for name, _ in files})
    sides = {"train": [f for f in files if f[0].parts[0] != "test" or not divided]}
    _check_counts(path, [name.parts[-2] for name, _ in sides["train"]], classes)
    if divided:
        sides["test"] = [f for f in files if f[0].parts[0] == "test"]
    return {side: _decoded(path, listed, classes) for side, listed in sides.items()}


def _listed(path: Path) -> list[tuple[PurePosixPath, Reader]]:
    """Relative name and reader of every image, sorted by name; a single common top folder is dropped."""
    if zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        found: list[tuple[PurePosixPath, Reader]] = [
            (PurePosixPath(i.filename), partial(archive.read, i)) for i in archive.infolist() if not i.is_dir()
        ]
    elif path.is_dir():
        found = [(PurePosixPath(p.relative_to(path).as_posix()), p.read_bytes) for p in path.rglob("*") if p.is_file()]
    else:
        raise DataError(f"folder:{path}: no such folder or zip file")
    found = [(name, read) for name, read in found if name.suffix.lower() in SUFFIXES and not _hidden(name)]
    if not found:
        raise DataError(f"folder:{path}: holds no images ({', '.join(sorted(SUFFIXES))})")
    if len({name.parts[0] for name, _ in found}) == 1 and min(len(name.parts) for name, _ in found) > 2:
        found = [(PurePosixPath(*name.parts[1:]), read) for name, read in found]
    return sorted(found, key=lambda item: item[0])


def _hidden(name: PurePosixPath) -> bool:
    """Whether a file is a system's own, such as the forks that a Mac puts into archives."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.parts)


def _check_counts(path: Path, labels: list[str], classes: list[str]) -> None:
    """Every part that is cut off needs an image of every class."""
    fewest = min(classes, key=labels.count)
    least = 2 * TEST_SHARE + VALIDATION_SHARE
    if labels.count(fewest) < 3 or len(labels) < least or len(labels) // (TEST_SHARE + VALIDATION_SHARE) < len(classes):
        raise DataError(
            f"folder:{path}: {len(labels)} training images, {labels.count(fewest)} of class '{fewest}', are too few "
            f"to cut validation and test slices with all {len(classes)} classes"
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
