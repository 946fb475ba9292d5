"""The AALP loss of one batch (arXiv v1 sections 3.1 and 3.2; the later version drops Matching ALP)."""

import torch
import torch.nn.functional as F

from harness_aalp.guided_dropout import trim


def step(model, x, y, ctx, *, version, alpha, beta, gd, sw, reduction, classification, **dropout):
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
    loss = F.cross_entropy(logits, labels) * (2 if classification == "sum" else 1) + alpha * pairing
    if version == 1 and sw:
        loss = loss + beta * matching(clean, adversarial, y)
    return loss


def matching(clean: torch.Tensor, adversarial: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Matching ALP of version 1: mean logits of randomly paired samples, pulled together within a class and pushed
    apart between classes by cosine distance. A sample paired with itself contributes nothing."""
    means = (clean + adversarial) / 2
    partner = torch.randperm(len(y), device=y.device)
    sign = torch.where(y == y[partner], 1.0, -1.0)
    return (sign * (1 - F.cosine_similarity(means, means[partner], dim=1))).mean()
