"""Reverse attention: the maps of the last blocks, multiplied by the weights that the head has for one class."""

import torch.nn.functional as F
from torch import nn

from harness.networks import Classifier
from harness_ancra.layout import find_layout, followed


def extend(network, *, shape, classes, **params):
    return ReverseAttention(network, shape)


class ReverseAttention(Classifier):
    """A network whose last blocks (see `find_layout`) are followed by reverse attention; all share its one head.

    The auxiliary logits of a block's map Z are head(pool(Z)). Z * W[j] goes on, W[j] being the head's weights of class
    j, each spread over the square of the map that its feature is the average of. The final logits are head(pool(Z')) of
    the last Z * W[j]. A last batch norm is taken out of the network: it follows every block, and nothing after that.
    """

    def __init__(self, network, shape):
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
    def head(self):
        return self.network.head

    def features(self, x):
        return self.reverse(x, predicted)[0]

    def answers(self, x, choose=None):
        """Final logits (n, k), and the auxiliary logits of each block, first to last.

        `choose`: auxiliary logits -> how much the weights of each class count in the mask (n, k); `predicted` unless
        given.
        """
        features, auxiliary = self.reverse(x, choose or predicted)
        return self.head(features), auxiliary

    def reverse(self, x, choose):
        """Features of the last masked map, and the auxiliary logits of each block."""
        masked, auxiliary = [], []

        def mask(_block, z):
            if self.norm is not None:
                z = F.relu(self.norm(z))
            auxiliary.append(self.head(self.pool(z)))
            masked.append(z * self.spread(choose(auxiliary[-1]) @ self.head.weight, z))
            return masked[-1]

        with followed(self.network, self.blocks, mask):
            self.network.features(x)
        return self.pool(masked[-1]), auxiliary

    def pool(self, z):
        return F.avg_pool2d(z, self.kernel).flatten(1)

    def spread(self, weights, z):
        """Weights (n, d) of features on the map of z (n, c, h, w)."""
        (height, width), (down, right) = z.shape[2:], self.kernel
        squares = weights.view(len(z), z.shape[1], height // down, width // right)
        return F.interpolate(squares, size=(height, width), mode="nearest-exact")


def predicted(logits):
    """Only the class that the auxiliary logits predict counts; the choice takes no gradient."""
    return F.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits.dtype)


def labelled(y):
    """Make the choice of training: only the true class counts."""
    return lambda logits: F.one_hot(y, logits.shape[1]).to(logits.dtype)
