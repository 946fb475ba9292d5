"""Guided Dropout without logit pairing: the rows RAW+gd and ADV+gd of AALP v1, table 5."""

import torch.nn.functional as F

from harness_aalp.guided_dropout import trim


def raw_gd(model, x, y, ctx, **dropout):
    return _trimmed(model, x, y, dropout)


def pgd_at_gd(model, x, y, ctx, **dropout):
    """The inner attack sees every feature, as it does in `aalp`."""
    return _trimmed(model, ctx.perturb(model, x, y), y, dropout)


def _trimmed(model, x, y, dropout):
    features = model.features(x)
    logits = trim(model.head, features, model.head(features), y, gd_rows="all", **dropout)
    return F.cross_entropy(logits, y)
