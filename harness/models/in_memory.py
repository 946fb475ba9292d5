"""A network that was built in memory: what it is called, and what identifies it besides its weights."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

from torch import nn

from harness.models.factory import Factory
from harness.storage.canonical import digest

SIMPLE = (bool, int, float, str, type(None))
"""Types of attributes that belong to a module's identity."""


def network_in_memory(network: nn.Module) -> Factory:
    """Make a factory that returns copies of a network; the network itself is never changed.

    Its identity is the tree of its modules as they print themselves, their plain attributes, and the source of every
    class among them that is not torch's own. What a module keeps in other objects is not seen.
    """
    return Factory(
        text=type(network).__name__, function=lambda: copy.deepcopy(network), source=None, content=_content(network)
    )


def _content(network: nn.Module) -> str:
    modules = list(network.named_modules())
    classes = {type(module) for _, module in modules if not _is_torchs(type(module))}
    return digest({
        "tree": repr(network),
        "attributes": {name: _attributes(module) for name, module in modules},
        "sources": {f"{kind.__module__}.{kind.__qualname__}": _source(kind) for kind in classes},
    })  # fmt: skip


def _attributes(module: nn.Module) -> dict[str, str]:
    """Collect what a module keeps in plain values, its mode excepted."""
    return {
        name: repr(value) for name, value in vars(module).items() if isinstance(value, SIMPLE) and name != "training"
    }


def _source(kind: type) -> str:
    """Read the whole file that defines a class, or what an interactive session remembers of it."""
    try:
        return Path(inspect.getfile(kind)).read_text(errors="replace")
    except (TypeError, OSError):
        pass
    try:
        return inspect.getsource(kind)
    except (TypeError, OSError):
        return "absent"


def _is_torchs(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "torch"
