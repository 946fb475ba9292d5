"""Random changes of training images (n, c, h, w), each image by draws of its own from torch's global generators."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.types import Images

SHARE = (0.45, 1.0)
"""The part of an image that `resized_crop_flip` keeps, by area: that of Simple Structure's code."""
ASPECT = (3 / 4, 4 / 3)
TRIES = 10
"""Aspect of the part, and how often one is drawn before the middle is taken: those of torchvision."""


def unchanged(x: Images) -> Images:
    """Return the images as they are."""
    return x


def flip(x: Images) -> Images:
    """Flip half of the images left to right."""
    flipped = torch.rand(len(x), device=x.device) < 0.5
    return torch.where(flipped[:, None, None, None], x.flip(3), x)


def crop_flip(x: Images) -> Images:
    """Pad 4 black pixels, crop a random window of the old size, and flip half of the images left to right."""
    n, _, height, width = x.shape
    padded = F.pad(x, (4, 4, 4, 4))
    top, left = (torch.randint(0, 9, (n,), device=x.device) for _ in range(2))
    flipped = torch.rand(n, device=x.device) < 0.5
    rows = top[:, None] + torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device).expand(n, width)
    columns = left[:, None] + torch.where(flipped[:, None], width - 1 - columns, columns)
    examples = torch.arange(n, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[examples, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def resized_crop_flip(x: Images) -> Images:
    """Scale a random window of each image to the size of the image, and flip half of the images left to right."""
    return flip(resized(x, draw_windows(len(x), x.shape[2], x.shape[3], x.device)))


class Windows(NamedTuple):
    """A window of each image: its first row and column, its height and its width in pixels, each (n,) int64."""

    top: torch.Tensor
    left: torch.Tensor
    height: torch.Tensor
    width: torch.Tensor


def draw_windows(n: int, height: int, width: int, device: torch.device | str = "cpu") -> Windows:
    """Draw windows as torchvision's RandomResizedCrop does, by `SHARE` of the area and by `ASPECT`.

    The area is uniform, the logarithm of the aspect too. Of several tries the first that fits counts, and the whole
    image where none fits, or its middle part where its own aspect is outside `ASPECT`.
    """
    area = height * width * torch.empty(n, TRIES, device=device).uniform_(*SHARE)
    aspect = torch.empty(n, TRIES, device=device).uniform_(*(math.log(bound) for bound in ASPECT)).exp()
    wide, high = ((area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long())
    fits = (wide > 0) & (wide <= width) & (high > 0) & (high <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    own = width / height
    middle_high = height if own >= ASPECT[0] else round(width / ASPECT[0])
    middle_wide = width if own <= ASPECT[1] else round(height * ASPECT[1])
    found = fits.any(dim=1)
    high = torch.where(found, high.gather(1, first).squeeze(1), middle_high)
    wide = torch.where(found, wide.gather(1, first).squeeze(1), middle_wide)
    places = torch.rand(2, n, device=device, dtype=torch.float64)
    top, left = (places[0] * (height - high + 1)).long(), (places[1] * (width - wide + 1)).long()
    return Windows(
        top=torch.where(found, top, (height - high) // 2), left=torch.where(found, left, (width - wide) // 2),
        height=high, width=wide,
    )  # fmt: skip


def resized(x: Images, windows: Windows) -> Images:
    """Scale the window of each image to the size of the image, bilinearly between the centres of pixels.

    Windows are never larger than the image, so that nothing is averaged away.
    """
    rows = _weights(windows.top, windows.height, x.shape[2]).to(x)
    columns = _weights(windows.left, windows.width, x.shape[3]).to(x)
    return (rows[:, None] @ x @ columns[:, None].transpose(2, 3)).clamp(0.0, 1.0)


def _weights(start: torch.Tensor, length: torch.Tensor, size: int) -> torch.Tensor:
    """How much each old pixel of a line counts in each new one (n, new, old)."""
    new = torch.arange(size, device=start.device)
    place = ((new + 0.5) * (length[:, None] / size) - 0.5).clamp(min=0.0)
    before = place.floor().long()
    after = torch.minimum(before + 1, length[:, None] - 1)
    near, far = (F.one_hot(start[:, None] + old, size) for old in (before, after))
    share = (place - before)[:, :, None]
    return (1 - share) * near + share * far


AUGMENTATIONS: Mapping[str, Callable[[Images], Images]] = {
    "none": unchanged,
    "flip": flip,
    "crop-flip": crop_flip,
    "resized-crop-flip": resized_crop_flip,
}
"""The augmentations by their names in recipes."""
