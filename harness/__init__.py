"""A benchmark harness for the adversarial robustness of image classifiers.

`bench`, `list_attacks` and `load` are Python's way in; plugin authors start at `harness.api`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.version import __version__

if TYPE_CHECKING:
    from harness.running.entry import bench, list_attacks, load

__all__ = ["__version__", "bench", "list_attacks", "load"]


def __getattr__(name: str) -> Any:
    if name in ("bench", "list_attacks", "load"):
        from harness.running import entry

        return getattr(entry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
