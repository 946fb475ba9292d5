"""Reverse attention: multiplies the maps of the last blocks by the head's weights of one class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import nn

from harness.networks import Classifier
from harness_ancra.layout import find_layout, followed

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from harness.api import Images, Labels, Logits

    Choice = Callable[[Logits], torch.Tensor]
    """Auxiliary logits (n, k) -> how much the weights of each class count in the mask (n, k)."""


def extend(network: Classifier, *, shape: tuple[int, int, int], classes: int, **params: Any) -> ReverseAttention:
    """Add reverse attention to a freshly built network, which becomes part of the result and is changed.

    Raises:
        UsageError: where `find_layout` finds no room for it.
    """
    return ReverseAttention(network, shape)


class ReverseAttention(Classifier):
    """A network whose last blocks (see `find_layout`) are followed by reverse attention and share its one head.

    The auxiliary logits of a block's map Z are head(pool(Z)). Z * W[j] goes on, W[j] being the head's weights of class
    j, each spread over the square of the map that its feature is the average of. The final logits are head(pool(Z')) of
    the last Z * W[j]. A last batch norm is taken out of the network: it follows every block, and nothing after that.
    """

    def __init__(self, network: Classifier, shape: tuple[int, int, int]) -> None:
        super().__init__()
        layout = find_layout(network, shape)
        self.blocks, self.kernel, self.norm = layout.blocks, layout.kernel, None
        if layout.norm:
            self.norm = network.get_submodule(layout.norm)
            parent, _, name = layout.norm.rpartition(".")
            setattr(network.get_submodule(parent), name, nn.Identity())
        self.network = network
        self.stage_names = tuple(f"network.{name}" for name in network.stage_names)

    @property
    def head(self) -> nn.Linear:  # type: ignore[override]  # read from the wrapped network, never set
        """The head of the wrapped network."""
        return self.network.head

    def features(self, x: Images) -> torch.Tensor:
        """Compute the features (n, d) of images, masked by the weights of the predicted classes."""
        return self.reverse(x, predicted)[0]

    def answers(self, x: Images, choose: Choice | None = None) -> tuple[Logits, list[Logits]]:
        """Compute the final logits (n, k), and the auxiliary logits of each block, first to last.

        `choose`: auxiliary logits -> how much the weights of each class count in the mask (n, k); `predicted` unless
        given.
        """
        features, auxiliary = self.reverse(x, choose or predicted)
        return self.head(features), auxiliary

    def reverse(self, x: Images, choose: Choice) -> tuple[torch.Tensor, list[Logits]]:
        """Compute the features (n, d) of the last masked map, and the auxiliary logits of each block."""
        masked, auxiliary = [], []

        def mask(_block: str, z: torch.Tensor) -> torch.Tensor:
            if self.norm is not None:
                z = F.relu(self.norm(z))
            auxiliary.append(self.head(self.pool(z)))
            masked.append(z * self.spread(choose(auxiliary[-1]) @ self.head.weight, z))
            return masked[-1]

        with followed(self.network, self.blocks, mask):
            self.network.features(x)
        return self.pool(masked[-1]), auxiliary

    def pool(self, z: torch.Tensor) -> torch.Tensor:
        """Average a map (n, c, h, w) over its squares: features (n, d)."""
        return F.avg_pool2d(z, self.kernel).flatten(1)

    def spread(self, weights: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Spread weights (n, d) of features over the map of z (n, c, h, w)."""
        (height, width), (down, right) = z.shape[2:], self.kernel
        squares = weights.view(len(z), z.shape[1], height // down, width // right)
        return F.interpolate(squares, size=(height, width), mode="nearest-exact")


def predicted(logits: Logits) -> torch.Tensor:
    """Choose the class that the auxiliary logits predict, as one-hot rows (n, k); it takes no gradient."""
    return F.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits.dtype)


def labelled(y: Labels) -> Choice:
    """Make the choice of training: the true class, as one-hot rows (n, k)."""
    return lambda logits: F.one_hot(y, logits.shape[1]).to(logits.dtype)
