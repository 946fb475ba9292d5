"""What is installed, as opposed to what is the user's own code."""

from __future__ import annotations

import functools
import importlib.util
import os
import sysconfig
from importlib import metadata
from pathlib import Path

_PARTS = ("site-packages", "dist-packages")


def absolute(path: str) -> str:
    """Complete a path by the working directory, where it is none yet, and follow no link."""
    return str(Path(path).absolute())


@functools.cache
def standard_folders() -> tuple[str, ...]:
    """List the folders of the interpreter's library and of installed distributions, each ending in a separator."""
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(dict.fromkeys(f"{path}{os.sep}" for path in paths if path))


@functools.cache
def _listed() -> frozenset[str]:
    """Read the folders that installed distributions add to `sys.path`, as editable ones do."""
    lines = [
        line.strip()
        for folder in standard_folders()
        for file in sorted(Path(folder).glob("*.pth"))
        for line in file.read_text(errors="replace").splitlines()
    ]
    return frozenset(line for line in lines if line and not line.startswith(("import ", "import\t", "#")))


@functools.cache
def is_installed(path: str, below: str = "") -> bool:
    """Tell whether a file or an entry of `sys.path` is the interpreter's or an installed distribution's.

    `below`: a folder that is not, in which there may be an environment.
    """
    full = f"{absolute(path)}{os.sep}"
    if not below and (path in _listed() or path.endswith(".zip")):
        return True
    named = any(part in _PARTS for part in Path(full[len(below) :]).parts)
    return named or any(full.startswith(folder) for folder in standard_folders() if not below.startswith(folder))


def distribution_folders(top: str) -> tuple[list[Path], list[Path]]:
    """Find where the packages of the distribution of a top-level module are, and the folders beside which it lies.

    Returns:
        Packages and modules among what is installed; for the others, the folders that they were found in.
    """
    known = metadata.packages_distributions()
    owners = set(known.get(top, ()))
    tops = {top} | {name for name, of in known.items() if owners & set(of)}
    installed, beside = [], []
    for name in sorted(tops):
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError):
            continue
        places = [*(spec.submodule_search_locations or ())] if spec else []
        places = places or ([spec.origin] if spec is not None and spec.origin and spec.has_location else [])
        for place in places:
            if is_installed(place):
                installed.append(Path(place).absolute())
            else:
                beside.append(Path(place).absolute().parent)
    return installed, beside
