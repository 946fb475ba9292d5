"""What a plugin author imports to describe a plugin. Light: imports neither torch nor numpy."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.errors import CheckpointError, DataError, HarnessError, NotApplicable, PluginError, UsageError
from harness.registry.hookspecs import hookimpl
from harness.types import (
    FROM_DATASET,
    TRAINING_EPS,
    Analysis,
    Architecture,
    Attack,
    Dataset,
    Defense,
    InnerAttack,
    OneOf,
    Quantity,
    Recipe,
    Result,
    Split,
    StandIn,
    ThreatKind,
    ThreatModel,
)

__all__ = [
    "FROM_DATASET",
    "TRAINING_EPS",
    "Analysis",
    "Architecture",
    "Attack",
    "CheckpointError",
    "DataError",
    "Dataset",
    "Defense",
    "HarnessError",
    "InnerAttack",
    "NotApplicable",
    "OneOf",
    "PluginError",
    "Quantity",
    "Recipe",
    "Result",
    "Split",
    "StandIn",
    "ThreatKind",
    "ThreatModel",
    "UsageError",
    "hookimpl",
    "lazy",
]


@dataclass(frozen=True, slots=True)
class _Lazy:
    target: str

    def resolve(self) -> Callable[..., Any]:
        module, _, name = self.target.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.resolve()(*args, **kwargs)


def lazy(target: str) -> Callable[..., Any]:
    """Stand for the function `package.module:name`, imported when first called, so that describing stays light."""
    return _Lazy(target)
