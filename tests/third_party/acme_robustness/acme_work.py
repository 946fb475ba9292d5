"""What the plugin does, imported when first needed."""

import torch
import torch.nn.functional as F

from harness.ops import margin, where_rows


def signs(model, x, y, threat, *, ctx, tries, flips):
    eps = float(threat.eps)
    signs = ctx.noise("start:0").sign()
    best = (x + eps * signs).clamp(0, 1)
    lowest = margin(model(best), y)
    for attempt in range(tries):
        chosen = ctx.noise(f"step:{attempt}").flatten(1).argsort(dim=1)[:, :flips]
        flipped = signs.flatten(1).scatter(1, chosen, -signs.flatten(1).gather(1, chosen)).view_as(x)
        candidate = (x + eps * flipped).clamp(0, 1)
        found = margin(model(candidate), y)
        better = found < lowest
        signs, best = where_rows(better, flipped, signs), where_rows(better, candidate, best)
        lowest = torch.where(better, found, lowest)
    return best


def noise_step(model, x, y, ctx, *, sigma):
    return F.cross_entropy(model((x + sigma * torch.randn_like(x)).clamp(0, 1)), y)
