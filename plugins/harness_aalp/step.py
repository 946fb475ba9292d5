"""The AALP loss of one batch (arXiv v1 sections 3.1 and 3.2; version 2 drops Matching ALP)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from harness_aalp.guided_dropout import trim

if TYPE_CHECKING:
    from harness.api import Images, Labels, TrainContext
    from harness.networks import Classifier


def step(
    model: Classifier, x: Images, y: Labels, ctx: TrainContext, *, version: int, alpha: float, beta: float, gd: bool,
    sw: bool, reduction: str, classification: str, **dropout: Any,
) -> torch.Tensor:  # fmt: skip
    """Compute the AALP loss: cross-entropy on clean and adversarial images, plus `alpha` times logit pairing.

    Clean and adversarial images share one forward pass. Version 1 with `sw` adds `beta` times `matching`, whose pairs
    are drawn from torch's global generator.
    """
    both = torch.cat([x, ctx.perturb(model, x, y)])
    labels = y.repeat(2)
    features = model.features(both)
    logits = model.head(features)
    # The confidence is "calculated first": before features are dropped, and not a way for the loss to fall.
    confidence = logits.detach()[: len(y)].softmax(dim=1).gather(1, y.unsqueeze(1)).squeeze(1)
    if gd:
        logits = trim(model.head, features, logits, labels, **dropout)
    clean, adversarial = logits.chunk(2)
    pairs = (clean - adversarial).square()
    distances = pairs.mean(dim=1) if reduction == "mean" else pairs.sum(dim=1)
    pairing = (confidence * distances).mean() if sw else distances.mean()
    loss: torch.Tensor = F.cross_entropy(logits, labels) * (2 if classification == "sum" else 1) + alpha * pairing
    if version == 1 and sw:
        loss = loss + beta * matching(clean, adversarial, y)
    return loss


def matching(clean: torch.Tensor, adversarial: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Compute Matching ALP of version 1 (a scalar) from mean logits of randomly paired samples.

    By cosine distance, pairs are pulled together within a class and pushed apart between classes. A sample paired with
    itself contributes nothing. Pairs are drawn from torch's global generator.
    """
    means = (clean + adversarial) / 2
    partner = torch.randperm(len(y), device=y.device)
    sign = torch.where(y == y[partner], 1.0, -1.0)
    return (sign * (1 - F.cosine_similarity(means, means[partner], dim=1))).mean()
