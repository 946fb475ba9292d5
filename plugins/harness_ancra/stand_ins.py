"""Stand-ins of reverse attention: what an attacker who knows it differentiates instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from torch import nn

from harness_ancra.reverse_attention import predicted

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.api import Images, Logits
    from harness_ancra.reverse_attention import Choice, ReverseAttention


def soft_mask(network: ReverseAttention, **params: Any) -> Answers:
    """Answer with the final logits; the masks of all classes are mixed by the softmax of the auxiliary logits."""
    return Answers(network, final, softly(1.0))


def auxiliary(network: ReverseAttention, **params: Any) -> Answers:
    """Answer with the mean of the auxiliary logits, which choose the masks."""
    return Answers(network, mean, predicted)


def joint(network: ReverseAttention, **params: Any) -> Answers:
    """Answer with final plus mean auxiliary logits under the soft mask, so that margins are the sums of both.

    Under the hard mask the final logits pull away from the choice: measured on digits, that breaks fewer images.
    """
    return Answers(network, total, softly(1.0))


class Answers(nn.Module):
    """A network whose answer `read` takes from the final and the auxiliary logits; `choose` makes the masks."""

    def __init__(
        self, network: ReverseAttention, read: Callable[[Logits, list[Logits]], Logits], choose: Choice
    ) -> None:
        super().__init__()
        self.network, self.read, self.choose = network, read, choose

    def forward(self, x: Images) -> Logits:
        """Compute the logits (n, k) of images."""
        return self.read(*self.network.answers(x, self.choose))


def softly(temperature: float) -> Choice:
    """Make the soft choice, which becomes that of the predicted class as the temperature goes to 0."""
    return lambda logits: (logits / temperature).softmax(dim=1)


def final(logits: Logits, blocks: list[Logits]) -> Logits:
    """Return the final logits."""
    return logits


def mean(logits: Logits, blocks: list[Logits]) -> Logits:
    """Return the mean of the auxiliary logits."""
    return cast("Logits", sum(blocks)) / len(blocks)


def total(logits: Logits, blocks: list[Logits]) -> Logits:
    """Return the final logits plus the mean of the auxiliary ones."""
    return logits + mean(logits, blocks)
