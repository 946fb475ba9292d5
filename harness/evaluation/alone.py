"""Networks whose answer for an image depends on the images beside it: told, and made to see one image at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from harness.evaluation.canaries import apart
from harness.evaluation.isolation import isolated
from harness.evaluation.judge import InvalidModel, Judge

if TYPE_CHECKING:
    from harness.types import Images, Logits

DEPENDENT = 1e-3
"""By what share of the gap between two logits the neighbours of an image must move its answer."""
SIZES = (2, 3, 17, 64, 250)
"""Sizes of batches that canaries are tried in too, whatever the size of the run. What changes between two of them, or
above all, is not seen."""
LARGEST = 10_000_000
"""Numbers that a batch of these may hold at the most: larger images are tried in fewer sizes."""
AMPLIFIED = 10.0
"""How many times more than a change of the image by rounding does: some networks amplify that."""


class OneByOne(nn.Module):
    """A network that sees one image at a time, whatever the batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Images) -> Logits:
        """Answer each image (1, c, h, w) alone, and put the logits (n, k) together."""
        return torch.cat([self.network(x[i : i + 1]) for i in range(len(x))])


def batch_dependence(judge: Judge) -> float:
    """Measure how far answers to canaries move with the images beside them, as a share of the gap between logits.

    Compared are all together with each alone, in reverse order, beside other images and in batches of other sizes; of a
    random network only beside other images, each in its place, as it draws the same for it then. Zero where no more is
    seen than rounding explains, and where a reseed does not bring the same answers again.

    Raises:
        InvalidModel: where it answers several images and not one.
    """
    x = judge.canaries
    half = len(x) // 2
    together, alone = _asked(judge, x), answered_alone(judge, x)
    others = [
        torch.cat([_asked(judge, torch.cat([x[:half], 1 - x[half:]]))[:half], together[half:]]),
        torch.cat([together[:half], _asked(judge, torch.cat([x[:half].roll(1, dims=0) / 2, x[half:]]))[half:]]),
    ]
    if not judge.stochastic:
        others += [alone, _asked(judge, x.flip(0)).flip(0), _in_a_batch_of(3 * len(x), judge, together)]
        others += [_in_a_batch_of(size, judge, together) for size in SIZES if size * x[0].numel() <= LARGEST]
    noise = torch.rand(3, *x.shape, generator=torch.Generator().manual_seed(1)).to(x) - 0.5
    rounded = [_asked(judge, (x * (1 + 2e-6 * one)).clamp(0, 1)) for one in noise]
    moved = torch.stack([apart(together, other) for other in others]).amax(dim=0)
    by_rounding = torch.stack([apart(together, other) for other in rounded]).amax(dim=0)
    some = moved.max() > max(DEPENDENT, AMPLIFIED * float(by_rounding.max()))
    most = moved.median() > max(DEPENDENT, AMPLIFIED * float(by_rounding.median()))
    return float(moved.max()) if judge.repeatable and (some or most) else 0.0


def _in_a_batch_of(size: int, judge: Judge, together: Logits) -> Logits:
    """Predict the canaries at the head of a batch, logits (n, k); those that have no room in it as they were."""
    x = judge.canaries
    fill = torch.cat([x, 1 - x, x.roll(1, dims=0) / 2])
    batch = fill.repeat(-(-size // len(fill)), 1, 1, 1)[:size]
    seen = _asked(judge, batch)[: len(x)]
    return torch.cat([seen, together[len(seen) :]])


def _asked(judge: Judge, x: Images) -> Logits:
    with isolated("canaries"):
        return judge.logits(x)


def answered_alone(judge: Judge, x: Images) -> Logits:
    """Predict each image of (n, c, h, w) alone, logits (n, k).

    Raises:
        InvalidModel: where that fails, though it answers them together.
    """
    try:
        return torch.cat([_asked(judge, x[i : i + 1]) for i in range(len(x))])
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise InvalidModel(
            f"the model answers {len(x)} images at once and not one alone ({type(error).__name__}: "
            f"{(str(error) or 'no message').splitlines()[0]}): its answer for an image depends on those beside it. "
            "Give it statistics of its training, as batch norm has in eval mode with track_running_stats=True"
        ) from error
