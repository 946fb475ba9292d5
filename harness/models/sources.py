"""The source files that a user's factory loads: the same in every process, whatever ran in it before, and hashed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.machinery
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path

from harness.models.installed import absolute, distribution_folders, is_installed
from harness.storage.canonical import digest

Loader = importlib.machinery.SourceFileLoader
NEVER_OWN = ("__main__", "__mp_main__", "harness")
_brought_modules: dict[str, types.ModuleType] = {}
_brought_folders: set[str] = set()
"""What factories of this process put into `sys.modules` and `sys.path`: the next one starts without it."""


class Sources:
    """The modules of the user's own that one factory loads, apart from those that the process has already.

    Inside `with sources.fresh():` imports find the files as they are now: what the process had loaded of the user's
    own code is set aside and put back afterwards, bytecode of an earlier version is not used, and every file that is
    executed is hashed with the bytes that ran. The block may be entered again and goes on where it was.

    Of an installed distribution everything is hashed instead, loaded or not, as it is loaded once for a process.
    """

    def __init__(self, folder: Path, module: str = "") -> None:
        """`folder` becomes importable; `module`: the dotted name of the factory's own, empty for a file."""
        self.folder, self.top = str(folder), module.partition(".")[0]
        self.sha256: dict[str, str] = {}
        self._modules: dict[str, types.ModuleType] = {}
        self._path: list[str] = []
        here = any((folder / name).exists() for name in (self.top, f"{self.top}.py"))
        self._installed, beside = distribution_folders(self.top) if self.top and not here else ([], [])
        self._beside = [str(path) for path in beside]

    @contextlib.contextmanager
    def fresh(self) -> Iterator[None]:
        """Import the factory's own modules inside the block, and nobody else's of these names."""
        importlib.invalidate_caches()
        for name, module in _brought_modules.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
        _brought_modules.clear()
        kept = [entry for entry in sys.path if entry not in _brought_folders]
        first = [self.folder, *self._path]
        sys.path[:] = [*first, *(entry for entry in kept if entry not in first)]
        never = (*NEVER_OWN, *_compiled())
        aside = self._own_modules(never)
        for name in aside:
            del sys.modules[name]
        sys.modules.update(self._modules)
        original = Loader.get_code
        setattr(Loader, "get_code", self._reading(original, never))  # noqa: B010
        try:
            yield
        finally:
            setattr(Loader, "get_code", original)  # noqa: B010
            self._path = [entry for entry in sys.path if entry not in kept and entry != self.folder]
            self._modules = self._own_modules(never)
            _brought_modules.update({name: self._modules[name] for name in self._modules.keys() - aside.keys()})
            _brought_folders.update(entry for entry in first + self._path if entry not in kept)
            _put_back(aside)

    def digest(self) -> str:
        """Hash the files that were executed: of one alone, the sha256 of its bytes. Empty where there was none."""
        hashes = self.sha256 | self._of_distribution
        alone = set(hashes.values())
        return alone.pop() if len(alone) == 1 else digest(sorted(hashes.items())) if alone else ""

    @functools.cached_property
    def _of_distribution(self) -> dict[str, str]:
        """Hash every source file of the installed distribution that the factory comes from."""
        return {
            file.relative_to(place.parent).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for place in self._installed
            for file in ([place] if place.is_file() else sorted(place.rglob("*.py")))
        }

    def _reading(self, original: object, never: tuple[str, ...]) -> object:
        """Make the way to read a source file inside the block, as a method of importlib's loader."""

        def get_code(loader: Loader, fullname: str) -> types.CodeType | None:
            if not self._is_own(fullname, str(loader.path), self._folders(), never):
                return original(loader, fullname)  # type: ignore[operator, no-any-return]
            data = loader.get_data(loader.path)
            self.sha256[fullname] = hashlib.sha256(data).hexdigest()
            return loader.source_to_code(data, loader.path)

        return get_code

    def _own_modules(self, never: tuple[str, ...]) -> dict[str, types.ModuleType]:
        folders = self._folders()
        return {n: m for n, m in [*sys.modules.items()] if self._is_own(n, _file(m), folders, never)}

    def _folders(self) -> list[str]:
        """List the folders that the user's own modules lie in: the factory's, and those of `sys.path` not installed."""
        on_path = [entry for entry in sys.path if not is_installed(entry)]
        return list(dict.fromkeys(f"{absolute(each)}{os.sep}" for each in [self.folder, *self._beside, *on_path]))

    def _is_own(self, name: str, file: str, folders: list[str], never: tuple[str, ...]) -> bool:
        top = name.partition(".")[0]
        if not file or top in never or (top.startswith("harness_") and top != self.top):
            return False
        path = absolute(file)
        return any(path.startswith(folder) and not is_installed(path, folder) for folder in folders)


def _put_back(modules: dict[str, types.ModuleType]) -> None:
    sys.modules.update(modules)
    for name, module in modules.items():
        parent, _, tail = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], tail, module)


def _file(module: object) -> str:
    """Tell the Python file of a module, or one in the folder of a namespace package; empty where there is neither."""
    known = getattr(module, "__dict__", None)
    if not isinstance(known, dict):
        return ""
    file = known.get("__file__")
    if isinstance(file, str):
        return file if file.endswith(".py") else ""
    try:
        return next((str(Path(folder) / "__init__.py") for folder in known.get("__path__") or ()), "")
    except Exception:  # a module of somebody's own kind
        return ""


def _compiled() -> set[str]:
    """Find the packages with a compiled part in this process: such a part is loaded once and for all."""
    endings = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    files = [(name, getattr(module, "__dict__", {})) for name, module in [*sys.modules.items()]]
    found = [name for name, known in files if isinstance(known, dict) and str(known.get("__file__")).endswith(endings)]
    return {name.partition(".")[0] for name in found}
