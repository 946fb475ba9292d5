"""What a source file of the user's rests on: the modules of their own that it imports, and theirs, as loaded."""

from __future__ import annotations

import ast
import importlib.machinery
import sys
import types
from collections.abc import Iterator
from pathlib import Path

from harness.models.installed import is_installed

CONSTANT = (bool, int, float, complex, str, bytes, type(None))


def imported(path: Path, name: str) -> dict[str, Path]:
    """Find the modules of the user's own that a file imports, anywhere in it, and that those import: name -> file.

    `name`: of the module that the file is. Nothing is imported here: what is not loaded yet is looked for.
    """
    found: dict[str, Path] = {}
    left = [(name, path)]
    while left:
        module, file = left.pop()
        for other in _names(file, module):
            place = _place(other)
            if place is not None and place != path and other not in found:
                found[other] = place
                left.append((other, place))
    return found


def otherwise(module: object, text: str, path: Path) -> list[object]:
    """List what a module holds that its source does not say: functions and constants from before it was edited.

    `text`: its source as it is now. Each is a name with the code or the value that is loaded.
    """
    known = vars(module) if isinstance(module, types.ModuleType) else {}
    try:
        tree = ast.parse(text)
        codes = set(_codes(compile(text, str(path), "exec")))
    except (SyntaxError, ValueError):
        return ["not Python any more"]
    stated = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found: list[object] = [
        [name, repr(known[name])]
        for name, value in stated.items()
        if name in known and isinstance(known[name], CONSTANT) and known[name] != value
    ]
    for function in _functions(known, str(getattr(module, "__name__", ""))):
        if function.__code__ not in codes:
            code = function.__code__
            found.append([code.co_qualname, code.co_code.hex(), repr(code.co_consts), repr(code.co_names)])
    return found


def _names(path: Path, module: str) -> Iterator[str]:
    """Yield the full names that a file may import; of `from a import b` both `a` and `a.b`."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    is_package = path.name == "__init__.py"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                yield from (".".join(parts[: i + 1]) for i in range(len(parts)))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*parents, *([base] if base else [])])
            parts = base.split(".") if base else []
            yield from (".".join(parts[: i + 1]) for i in range(len(parts)))
            yield from (f"{base}.{alias.name}" for alias in node.names if base)


def _place(name: str) -> Path | None:
    """Find the Python file of a module of the user's own; None for others, and for what is no module."""
    top, (parent, _, _) = name.partition(".")[0], name.rpartition(".")
    if top == "harness" or top.startswith("harness_"):
        return None
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None and name not in sys.modules:
        path = getattr(sys.modules.get(parent), "__path__", None)
        if parent and path is None:
            return None
        try:
            spec = importlib.machinery.PathFinder.find_spec(name, path)
        except (ImportError, ValueError):
            return None
        file = spec.origin if spec is not None and spec.has_location else None
    own = isinstance(file, str) and file.endswith(".py") and not is_installed(file)
    return Path(str(file)) if own and Path(str(file)).is_file() else None


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _functions(known: dict[str, object], module: str) -> Iterator[types.FunctionType]:
    """Yield the functions and methods that a module itself defines."""
    for value in [*known.values()]:
        if getattr(value, "__module__", None) != module:
            continue
        for part in vars(value).values() if isinstance(value, type) else [value]:
            function = getattr(part, "__func__", part)
            if isinstance(function, types.FunctionType) and function.__module__ == module:
                yield function
