"""Guided Dropout without logit pairing: the rows RAW+gd and ADV+gd of AALP v1, table 5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F

from harness_aalp.guided_dropout import trim

if TYPE_CHECKING:
    import torch

    from harness.api import Images, Labels, TrainContext
    from harness.networks import Classifier


def raw_gd(model: Classifier, x: Images, y: Labels, ctx: TrainContext, **dropout: Any) -> torch.Tensor:
    """Compute the cross-entropy on clean images with Guided Dropout."""
    return _trimmed(model, x, y, dropout)


def pgd_at_gd(model: Classifier, x: Images, y: Labels, ctx: TrainContext, **dropout: Any) -> torch.Tensor:
    """Compute the cross-entropy on PGD examples with Guided Dropout.

    The inner attack sees every feature, as it does in `aalp`.
    """
    return _trimmed(model, ctx.perturb(model, x, y), y, dropout)


def _trimmed(model: Classifier, x: Images, y: Labels, dropout: dict[str, Any]) -> torch.Tensor:
    features = model.features(x)
    logits = trim(model.head, features, model.head(features), y, gd_rows="all", **dropout)
    return F.cross_entropy(logits, y)
