"""The window of offsets within which mass may move, and the two linear maps it defines."""

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from harness.api import UsageError


@dataclass(frozen=True, slots=True)
class Window:
    """A square of offsets (di, dj), each from `low` to `high`, in row-major order.

    A plan (n, c, k * k, h, w) holds the mass that leaves each pixel for each offset. `push` and `pull` are adjoint.
    """

    low: int
    high: int

    @classmethod
    def odd(cls, width: int) -> "Window":
        """Make the window of an odd width around the pixel.

        Raises:
            UsageError: for an even width.
        """
        if width < 1 or width % 2 == 0:
            raise UsageError(f"window={width} must be odd, so that the pixel is its centre")
        return cls(-(width // 2), width // 2)

    @property
    def width(self) -> int:
        """The number k of offsets along one axis."""
        return self.high - self.low + 1

    @property
    def centre(self) -> int:
        """The position of the offset (0, 0) among the k * k."""
        return -self.low * (self.width + 1)

    def distances(self, like: torch.Tensor) -> torch.Tensor:
        """Compute the Euclidean length (k * k,) of each offset in pixels."""
        offsets = itertools.product(range(self.low, self.high + 1), repeat=2)
        return torch.tensor([math.hypot(*offset) for offset in offsets], dtype=like.dtype, device=like.device)

    def pull(self, image: torch.Tensor) -> torch.Tensor:
        """Read for each pixel and offset the image's value there, 0 outside the frame: (n, c, k * k, h, w)."""
        n, c, h, w = image.shape
        padded = F.pad(image, (-self.low, self.high, -self.low, self.high)).view(n * c, 1, *self._padded(h, w))
        return F.unfold(padded, self.width).view(n, c, self.width**2, h, w)

    def push(self, plan: torch.Tensor) -> torch.Tensor:
        """Build the image (n, c, h, w) that a plan makes; what it moves out of the frame is lost."""
        n, c, _, h, w = plan.shape
        padded = F.fold(plan.reshape(n * c, self.width**2, h * w), self._padded(h, w), self.width)
        return padded.view(n, c, *self._padded(h, w))[:, :, -self.low : h - self.low, -self.low : w - self.low]

    def inside(self, like: torch.Tensor) -> torch.Tensor:
        """Tell whether each offset leads from a pixel to one inside the frame (1, 1, k * k, h, w)."""
        return self.pull(torch.ones_like(like[:1, :1])) > 0

    def staying(self, image: torch.Tensor) -> torch.Tensor:
        """Build the plan (n, c, k * k, h, w) that moves nothing."""
        n, c, h, w = image.shape
        plan = image.new_zeros(n, c, self.width**2, h, w)
        plan[:, :, self.centre] = image
        return plan

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        return height + self.high - self.low, width + self.high - self.low


def occupied(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the positions (n, p) that hold mass among all channels and pixels, and the mass; short rows end in empty
    pixels.
    """
    flat = x.flatten(1)
    most = max(int((flat > 0).sum(dim=1).max()), 1)
    positions = (flat > 0).int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return positions, flat.gather(1, positions)
