"""What a plugin author imports to describe a plugin, and to annotate what its functions are handed.

Light: neither torch nor numpy is imported until a name that needs them is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import CheckpointError, DataError, HarnessError, NotApplicable, PluginError, UsageError
from harness.registry.hookspecs import hookimpl
from harness.types import (
    FROM_DATASET,
    TRAINING_EPS,
    Access,
    Analysis,
    Architecture,
    Attack,
    Dataset,
    Defense,
    InnerAttack,
    Knowledge,
    Need,
    OneOf,
    Quantity,
    Recipe,
    Result,
    Split,
    StandIn,
    ThreatKind,
    ThreatModel,
    Value,
)

if TYPE_CHECKING:
    from harness.data.dataset import LoadedDataset, LoadedPart
    from harness.data.seeds import Distribution
    from harness.evaluation.context import AttackContext
    from harness.evaluation.oracle import Oracle
    from harness.models.analysis import AnalysisContext
    from harness.reporter import EpochReport
    from harness.storage.schema import Record
    from harness.training.context import SavedState, TrainContext
    from harness.training.peers import PeerAttack, Peers
    from harness.types import Flags, Images, Labels, Logits

__all__ = [
    "FROM_DATASET",
    "TRAINING_EPS",
    "Access",
    "Analysis",
    "AnalysisContext",
    "Architecture",
    "Attack",
    "AttackContext",
    "CheckpointError",
    "DataError",
    "Dataset",
    "Defense",
    "Distribution",
    "EpochReport",
    "Flags",
    "HarnessError",
    "Images",
    "InnerAttack",
    "Knowledge",
    "Labels",
    "LoadedDataset",
    "LoadedPart",
    "Logits",
    "Need",
    "NotApplicable",
    "OneOf",
    "Oracle",
    "PeerAttack",
    "Peers",
    "PluginError",
    "Quantity",
    "Recipe",
    "Record",
    "Result",
    "SavedState",
    "Split",
    "StandIn",
    "ThreatKind",
    "ThreatModel",
    "TrainContext",
    "UsageError",
    "Value",
    "hookimpl",
    "lazy",
]

_LATE = {
    "AnalysisContext": "harness.models.analysis",
    "AttackContext": "harness.evaluation.context",
    "Distribution": "harness.data.seeds",
    "EpochReport": "harness.reporter",
    "LoadedDataset": "harness.data.dataset",
    "LoadedPart": "harness.data.dataset",
    "Oracle": "harness.evaluation.oracle",
    "PeerAttack": "harness.training.peers",
    "Peers": "harness.training.peers",
    "Record": "harness.storage.records",
    "SavedState": "harness.training.context",
    "TrainContext": "harness.training.context",
}
"""What a plugin is handed -> the module that defines it, imported when the name is first asked for."""
_TENSORS = ("Flags", "Images", "Labels", "Logits")


def __getattr__(name: str) -> Any:
    if name in _TENSORS:
        return importlib.import_module("torch").Tensor
    if name in _LATE:
        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


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
