"""What an attacker who knows reverse attention differentiates instead of it."""

from torch import nn

from harness_ancra.reverse_attention import predicted


def soft_mask(network, **params):
    """The final logits, every class masking as far as the auxiliary logits believe in it."""
    return Answers(network, final, softly(1.0))


def auxiliary(network, **params):
    """The mean of the auxiliary logits: what chooses the masks."""
    return Answers(network, mean, predicted)


def joint(network, **params):
    """Final plus mean auxiliary logits under the soft mask, so that its margins are the sums of theirs.

    Under the hard mask the final logits pull away from the choice: measured on digits, that breaks fewer images.
    """
    return Answers(network, total, softly(1.0))


class Answers(nn.Module):
    """Logits that `read` takes from the final and the auxiliary ones; `choose` makes the masks."""

    def __init__(self, network, read, choose):
        super().__init__()
        self.network, self.read, self.choose = network, read, choose

    def forward(self, x):
        return self.read(*self.network.answers(x, self.choose))


def softly(temperature):
    """Make the soft choice: the mask is that of the predicted class as the temperature goes to 0."""
    return lambda logits: (logits / temperature).softmax(dim=1)


def final(logits, blocks):
    return logits


def mean(logits, blocks):
    return sum(blocks) / len(blocks)


def total(logits, blocks):
    return logits + mean(logits, blocks)
