"""A function that returns a network, found by `package.module:function` or `file.py:function` and called with care."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from harness.errors import UsageError
from harness.models.sources import Sources

OFFERED = ("shape", "classes")
"""What a factory is handed, where its signature has parameters of these names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Factory:
    """A function that returns a network, as the user typed it, and the file that defines it.

    `content`: the sha256 of what defines the network, where that is not the bytes of one file. `sources`: the files
    that it loads, where it was found by its name.
    """

    text: str
    function: Callable[..., Any]
    source: Path | None
    content: str = ""
    sources: Sources | None = None

    @property
    def name(self) -> str:
        """The name that a defense of this network has: module and function, as in `module.function`."""
        place, _, function = self.text.rpartition(":")
        module = Path(place).stem if _is_file(place) else place
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{module}.{function}" if module else function)

    @property
    def sha256(self) -> str:
        """The sha256 of what defines the network: its source file as a rule; `absent` where there is nothing."""
        if self.content or self.source is None:
            return self.content or "absent"
        return hashlib.sha256(self.source.read_bytes()).hexdigest()

    @property
    def identity(self) -> str:
        """The sha256 over everything of the user's own that was loaded so far: `sha256`, and what that imports."""
        return (self.sources.digest() if self.sources else "") or self.sha256

    def fresh(self) -> contextlib.AbstractContextManager[None]:
        """Make the files that it imports importable as they are now; see `Sources`."""
        return self.sources.fresh() if self.sources else contextlib.nullcontext()

    def network(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Call the function for images of a shape (c, h, w), and check that a network comes back.

        Raises:
            UsageError: where it asks for more than `shape` and `classes`, fails, or returns something else.
        """
        offered = dict(zip(OFFERED, (shape, classes), strict=True))
        arguments = {name: offered[name] for name in self._asked()}
        try:
            network = self.function(**arguments)
        except UsageError as error:
            raise UsageError(f"--model {self.text}: {error}") from error
        except (Exception, SystemExit) as error:
            raise UsageError(f"--model {self.text}: the factory raised {told(error)}") from error
        if not isinstance(network, nn.Module):
            raise UsageError(f"--model {self.text}: the factory returned {type(network).__name__}, no torch.nn.Module")
        return network

    def _asked(self) -> list[str]:
        """List which of the things that are offered the function asks for."""
        try:
            parameters = inspect.signature(self.function).parameters
        except ValueError:  # a builtin without a signature
            return []
        named = [p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        unknown = [p.name for p in named if p.default is p.empty and p.name not in OFFERED]
        if unknown:
            raise UsageError(
                f"--model {self.text}: the factory asks for {', '.join(unknown)}; it is handed "
                f"{' and '.join(OFFERED)} at most. Give the others a default"
            )
        return [p.name for p in named if p.name in OFFERED]


def find_factory(text: str) -> Factory:
    """Import the module or the file and look the function up.

    The current folder, or that of the file, becomes importable and stays so: a factory may import when it is called.
    What it imports is loaded anew: files may have been edited since this process imported them.

    Raises:
        UsageError: where there is no such function, or the import fails.
    """
    place, _, name = text.rpartition(":")
    if not place or not name:
        raise UsageError(f"--model '{text}': write package.module:function or file.py:function")
    sources = _sources(text, place)
    with sources.fresh():
        module = _module(text, place)
    function = getattr(module, name, None)
    if not callable(function) or isinstance(function, nn.Module):
        near = difflib.get_close_matches(name, [known for known in vars(module) if callable(vars(module)[known])], 1)
        what = "does not exist" if function is None else f"is a {type(function).__name__}, not a function"
        asked = f". Did you mean {near[0]}?" if near and near[0] != name else ""
        raise UsageError(f"--model {text}: '{name}' {what} in {place}{asked}")
    return Factory(text=text, function=function, source=_source(function, module), sources=sources)


def told(error: BaseException) -> str:
    """Write an error of somebody else's code in one line."""
    return f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"


def _source(function: Callable[..., Any], module: ModuleType | None) -> Path | None:
    """Find the file that defines a function, otherwise that of the module it was found in."""
    try:
        defined = inspect.getfile(inspect.unwrap(function))
    except TypeError:  # not defined in Python
        defined = ""
    files = [Path(file) for file in (defined, getattr(module, "__file__", None)) if file and Path(file).is_file()]
    return files[0] if files else None


def _is_file(place: str) -> bool:
    return place.endswith(".py")


def _sources(text: str, place: str) -> Sources:
    if not _is_file(place):
        return Sources(Path.cwd(), place)
    if not Path(place).is_file():
        raise UsageError(f"--model {text}: no such file: {place}")
    return Sources(Path(place).resolve().parent)


def _module(text: str, place: str) -> ModuleType:
    try:
        return _from_file(Path(place)) if _is_file(place) else importlib.import_module(place)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and not _is_file(place) and f"{place}.".startswith(f"{error.name}."):
            raise UsageError(f"--model {text}: no module '{error.name}', here or installed") from error
        raise UsageError(f"--model {text}: importing {place} failed ({told(error)})") from error


def _from_file(path: Path) -> ModuleType:
    # Under a name that no installed module has, so that nothing else is replaced by it.
    name = f"own_model_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
