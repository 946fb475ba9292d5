"""Judging coded images: before they are kept as witnesses, and again when somebody verifies them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.evaluation.judge import InvalidModel, Judge
from harness.ops import logit_scale, margin, where_rows
from harness.types import ThreatKind, ThreatModel
from harness.witnesses.codec import decode, encode

if TYPE_CHECKING:
    from harness.types import Flags, Images, Labels

CLEAR = 1e-5
"""By what share of the scale of its logits a kept image must be wrong: other batches and devices round otherwise."""


def coded(
    judge: Judge, x: Images, y: Labels, images: Images, wanted: Flags, threat: ThreatModel, kind: ThreatKind
) -> dict[int, np.ndarray]:
    """Encode the wanted adversarial images, by row: short codes, or the image itself where a short one fails.

    Every code was read back, found inside the threat model, and clearly misclassified. Costs a forward or two for each
    wanted image, none where nothing is wanted.
    """
    chosen = wanted.nonzero().flatten()
    if not len(chosen):
        return {}
    x, y, images = x[chosen], y[chosen], images[chosen]
    clean, whole = x.cpu().numpy(), images.cpu().numpy()
    short = encode(clean, whole, threat)
    stands = _clear(judge, x, y, torch.from_numpy(decode(clean, short, threat)).to(x.device), threat, kind)
    rest = ~stands
    if rest.any():
        rest[rest.clone()] = _clear(judge, x[rest], y[rest], images[rest], threat, kind)
    at = chosen.tolist()
    found = {at[i]: short[i] for i in stands.nonzero().flatten().tolist()}
    return found | {at[i]: whole[i] for i in rest.nonzero().flatten().tolist()}


def rejudged(
    judge: Judge, x: Images, y: Labels, images: Images, threat: ThreatModel, kind: ThreatKind
) -> tuple[Flags, Flags]:
    """Tell which images (n,) lie inside the threat model, and which are misclassified: one verdict for each."""
    inside = within(x, images, threat, kind)
    # Those outside, which may not even be finite, count as outside whatever the network says.
    return inside, judge.misclassified(where_rows(inside, images, x), y, len(x))


def within(x: Images, images: Images, threat: ThreatModel, kind: ThreatKind) -> Flags:
    """Tell which images (n,) are proven to be inside the threat model and [0, 1], in float64, without evidence."""
    eps = float(threat.eps) if threat.eps is not None else None
    in_range = ((images >= 0) & (images <= 1)).flatten(1).all(dim=1)
    verified: Flags = kind.verify(x, images, eps, None).to(x.device)
    return in_range & verified


def _clear(judge: Judge, x: Images, y: Labels, images: Images, threat: ThreatModel, kind: ThreatKind) -> Flags:
    try:
        logits = judge.logits(images)
    except InvalidModel:
        # Not finite for a coded image: no witness, and no word about the record, which rests on other images.
        return torch.zeros(len(x), dtype=torch.bool, device=x.device)
    return within(x, images, threat, kind) & (margin(logits, y) < -CLEAR * logit_scale(logits))
