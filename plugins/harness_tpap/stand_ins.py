"""What an attacker who knows the purification differentiates instead of it."""

import torch
import torch.nn.functional as F
from torch import nn

from harness_tpap.purify import Purified, drawn, labelled, magnitude

VANISHED = 1e-25
"""A gradient of a smaller mean counts as zero: scaled up, its derivatives would leave the range of float32."""


def base(network, **params):
    return network


def bpda(network, *, strength, pattern, **training):
    return Straight(Purified(network, magnitude(strength), pattern))


def smooth(network, *, strength, pattern, sharpness=10.0, **training):
    return Smooth(network, magnitude(strength), pattern, sharpness)


def smooth_1(network, **params):
    return smooth(network, sharpness=1.0, **params)


def smooth_100(network, **params):
    return smooth(network, sharpness=100.0, **params)


class Straight(nn.Module):
    """The deployed prediction, with the gradient at the purified image handed to the image (BPDA, identity).

    Athalye et al. 2018, arXiv:1802.00420. The identity passes the clamp too: most pixels of digits are 0 or 1.
    """

    def __init__(self, deployed: Purified) -> None:
        super().__init__()
        self.deployed = deployed

    def forward(self, x):
        with torch.no_grad():
            purified = self.deployed.purify(x)
        return self.deployed.network(Substituted.apply(x, purified))


class Smooth(nn.Module):
    """The purification with tanh(sharpness g / mean |g|) for sign(g), differentiated through g; identity at the clamp.

    The mean is each image's own.
    """

    def __init__(self, network: nn.Module, strength: float, pattern: str, sharpness: float) -> None:
        super().__init__()
        self.network, self.strength, self.pattern, self.sharpness = network, strength, pattern, sharpness

    def forward(self, x):
        moved = x + self.strength * self.direction(x)
        return self.network(Substituted.apply(moved, moved.detach().clamp(0.0, 1.0)))

    def direction(self, x):
        if self.pattern == "random_sign":
            return drawn(x)
        wanted = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            point = x if wanted else x.detach().requires_grad_(True)
            logits = self.network(point)
            label = labelled(logits.argmax(dim=1), self.pattern, logits.shape[1])
            loss = F.cross_entropy(logits, label, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, point, create_graph=wanted)
            scale = gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
            gone = scale < VANISHED
            soft = torch.tanh(self.sharpness * gradient.masked_fill(gone, 0.0) / scale.masked_fill(gone, 1.0))
        return -soft if self.pattern == "reversed" else soft


class Substituted(torch.autograd.Function):
    """The second argument, with the gradient of the first."""

    @staticmethod
    def forward(ctx, x, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None
