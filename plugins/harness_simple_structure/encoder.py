"""A transformer encoder that computes the first token only."""

from __future__ import annotations

import math

import torch
from torch import nn

HEADS, DROPOUT = 4, 0.1


class Encoder(nn.Module):
    """Pre-norm layers and a last norm, from tokens (n, t, d) to the encoded first token (n, d).

    The last layer is computed for that token alone, since the others would be thrown away: with two layers half the
    work.
    """

    def __init__(self, dimension: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(dimension) for _ in range(layers))
        self.norm = nn.LayerNorm(dimension)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Encode the first token (n, d)."""
        *others, last = self.layers
        for layer in others:
            tokens = layer(tokens, len(tokens[0]))
        answer: torch.Tensor = self.norm(last(tokens, 1)).squeeze(1)
        return answer


class Layer(nn.Module):
    """Attention of 4 heads (of 2 or 1 where 4 do not divide the dimension), then an MLP of four times the width.

    Dropout on what each of them adds, within the MLP and on the attention. Written out because torch's own layer
    answers for every token and takes half as long again with dropout on a CPU.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.heads = math.gcd(HEADS, dimension)
        self.norm1, self.norm2 = nn.LayerNorm(dimension), nn.LayerNorm(dimension)
        self.query, self.out = nn.Linear(dimension, dimension), nn.Linear(dimension, dimension)
        self.key_value = nn.Linear(dimension, 2 * dimension)
        self.dropout = nn.Dropout(DROPOUT)
        self.mlp = nn.Sequential(
            nn.Linear(dimension, 4 * dimension), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(4 * dimension, dimension)
        )

    def forward(self, tokens: torch.Tensor, asked: int) -> torch.Tensor:
        """Encode the first `asked` tokens (n, asked, d), which attend to all of them."""
        normed = self.norm1(tokens)
        key, value = self.key_value(normed).chunk(2, dim=2)
        found = tokens[:, :asked] + self.dropout(self._attend(self.query(normed[:, :asked]), key, value))
        answer: torch.Tensor = found + self.dropout(self.mlp(self.norm2(found)))
        return answer

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        query, key, value = (self._split(part) for part in (query, key, value))
        weights = (query / math.sqrt(query.shape[2]) @ key.transpose(1, 2)).softmax(dim=2)
        mixed = self.dropout(weights) @ value
        answer: torch.Tensor = self.out(mixed.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2))
        return answer

    def _split(self, part: torch.Tensor) -> torch.Tensor:
        """(n, t, d) -> (n * heads, t, d / heads)."""
        answer: torch.Tensor = part.unflatten(2, (self.heads, -1)).transpose(1, 2).flatten(0, 1)
        return answer
