"""What decides the answers of an object in memory: plain values, tensors, code and what it closes over, by content."""

from __future__ import annotations

import functools
import hashlib
import inspect
import linecache
import sys
import types
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.models.imports import imported, otherwise
from harness.models.installed import is_installed
from harness.networks import tensors_sha256
from harness.storage.canonical import digest

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, range, slice)
"""Types whose values are their text."""
OTHERS_CODE = ("torch", "torchvision", "numpy", "builtins", "functools", "collections", "typing", "math")
"""Packages whose code is told by its name; the record of a run names their versions."""
Seen = dict[int, tuple[int, object]]
"""Id -> in which place an object was met, and the object."""
_BARE = vars(nn.Module())


def fingerprint(value: object) -> str:
    """Digest an object by content, the same in every process and on every torch where the content is the same.

    Of a network: its modules with their attributes, tensors that are in no state dict, hooks, and the source of every
    class that is not torch's own. Weights are not part of it: records hold their hash. Whatever cannot be read makes
    the digest another one each time.
    """
    try:
        return digest(_told(value, {}))
    except Exception:  # somebody else's objects may raise anything when they are looked at
        return digest(_unreadable())


def _told(value: Any, seen: Seen) -> Any:
    """Describe a value in JSON; objects that were met before by the order in which they were met."""
    if isinstance(value, PLAIN):
        return [type(value).__name__, repr(value)]
    if id(value) in seen:
        return ["again", seen[id(value)][0]]
    # The value is held, too: the id of one that is gone may become another's.
    seen[id(value)] = (len(seen), value)
    if isinstance(value, torch.Tensor):
        return ["tensor", tensors_sha256({"": value})]
    if isinstance(value, np.ndarray | np.generic):
        return ["array", str(value.dtype), list(value.shape), hashlib.sha256(np.asarray(value).tobytes()).hexdigest()]
    if isinstance(value, nn.Module):
        return _module(value, seen)
    if isinstance(value, Mapping):
        return ["mapping", [[_told(key, seen), _told(one, seen)] for key, one in value.items()]]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [_told(one, seen) for one in value]]
    if isinstance(value, set | frozenset):
        return ["set", sorted(digest(_told(one, {})) for one in value)]
    if isinstance(value, functools.partial):
        return ["partial", *(_told(part, seen) for part in (value.func, value.args, value.keywords))]
    if isinstance(value, types.MethodType):
        return ["method", _told(value.__func__, seen), _told(value.__self__, seen)]
    if isinstance(value, types.ModuleType | types.BuiltinFunctionType) or type(value).__name__ == "builtin":
        return ["named", getattr(value, "__module__", None) or "", value.__name__]
    if isinstance(value, type):
        return _class(value, seen)
    if isinstance(value, types.FunctionType):
        return _function(value, seen)
    if hasattr(value, "__dict__") and not hasattr(value, "__slots__"):
        return ["object", _told(type(value), seen), _told(vars(value), seen)]
    return _unreadable()


def _unreadable() -> Any:
    return ["unreadable", uuid.uuid4().hex]


def _module(module: nn.Module, seen: Seen) -> Any:
    kept = module.state_dict(keep_vars=True).keys()
    attributes = {
        # Hooks stand under numbers that count on for the whole process.
        name: list(value.values()) if name in _BARE and isinstance(value, Mapping) else value
        for name, value in vars(module).items()
        if name not in ("training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
        and not (name in _BARE and not value and not _BARE[name])
    }
    return [
        "module", _told(type(module), seen), module.extra_repr(), _told(dict(sorted(attributes.items())), seen),
        [[name, _told(tensor, seen)] for name, tensor in module._buffers.items() if name not in kept],
        [[name, _told(child, seen)] for name, child in module._modules.items()],
    ]  # fmt: skip


def _class(kind: type, seen: Seen) -> Any:
    named = ["class", kind.__module__, kind.__qualname__]
    if _is_others(kind.__module__):
        return named
    functions = [part for part in vars(kind).values() if isinstance(part, types.FunctionType)]
    told = _file(kind) or [_function(part, seen) for part in functions]
    return [*named, told, [_told(base, seen) for base in kind.__bases__]]


def _function(function: types.FunctionType, seen: Seen) -> Any:
    if _is_others(function.__module__ or ""):
        return ["function", function.__module__, function.__qualname__]
    closed = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    source = _file(function)
    code = source or _code(function.__code__)
    if function.__name__ == "<lambda>":
        # A file holds many of them, and nothing but their code tells them apart.
        code = [code, _compiled(function.__code__)]
    # Where there is no file, the values that the code finds by name are all that says what it means.
    named = () if source else sorted(set(_names(function.__code__)) & function.__globals__.keys())
    outside = {name: function.__globals__[name] for name in named}
    return [
        "function",
        code,
        *(_told(part, seen) for part in (closed, function.__defaults__, function.__kwdefaults__, outside)),
    ]


def _names(code: types.CodeType) -> list[str]:
    inner = [name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names(const)]
    return [*code.co_names, *inner]


def _code(code: types.CodeType) -> Any:
    """Tell the source that an interactive session remembers, otherwise the compiled code."""
    lines = linecache.getlines(code.co_filename)
    if lines:
        return ["cell", "".join(inspect.getblock(lines[code.co_firstlineno - 1 :]))]
    return _compiled(code)


def _compiled(code: types.CodeType) -> Any:
    constants = [_compiled(one) if isinstance(one, types.CodeType) else repr(one) for one in code.co_consts]
    return ["code", code.co_code.hex(), constants, list(code.co_names), list(code.co_varnames)]


def _file(thing: Any) -> Any:
    """Read the whole file that defines a class or a function, and what it rests on; empty where there is none.

    That is every module of the user's own that it imports, and whatever is loaded of them otherwise than they are now.
    """
    try:
        path = Path(inspect.getfile(thing))
        if not path.is_file():
            return ""
        text, name = path.read_text(errors="replace"), str(thing.__module__)
        beside = {} if is_installed(str(path)) else {name: path, **imported(path, name)}
        texts = {one: (file, file.read_text(errors="replace")) for one, file in beside.items()}
    except (TypeError, OSError):
        return ""
    rests_on = [[one, said] for one, (_, said) in sorted(texts.items()) if one != name]
    other = [[one, otherwise(sys.modules.get(one), said, file)] for one, (file, said) in sorted(texts.items())]
    changed = [found for found in other if found[1]]
    return ["file", text, *([rests_on] if rests_on else []), *([["loaded", changed]] if changed else [])]


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _is_others(module: str) -> bool:
    return module.partition(".")[0] in OTHERS_CODE
