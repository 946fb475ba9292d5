"""Analyses run on prepared networks."""

import numpy as np
import torch
from torch import nn

from harness.data.dataset import LoadedPart
from harness.models.analysis import AnalysisContext, measure
from harness.registry.discovery import discover
from harness.storage.schema import QuantityObserved
from harness.types import Analysis


def analysis_context(model: nn.Module, test: LoadedPart, **changes: object) -> AnalysisContext:
    """What an analysis is handed of a network that is deployed as it was trained, with all of these images."""
    usual = {
        "network": model, "stand_ins": {}, "defense_params": {}, "examples": np.arange(len(test)),
        "device": torch.device("cpu"), "peers": None,
    }  # fmt: skip
    return AnalysisContext(model=model, test=test, **{**usual, **changes})


def quantities(name: str, ctx: AnalysisContext, **params: object) -> dict[str, QuantityObserved]:
    """What an installed analysis measures, by name."""
    return measure(discover().get(Analysis, name).spec, ctx, params, 0)["quantities"]
