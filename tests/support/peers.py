"""In place of the attacks that a training or an analysis is handed by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class PlannedAttack:
    """In place of a `PeerAttack`: crafts as a test says, and is who the test says."""

    craft: Callable[..., torch.Tensor]
    identity: Mapping[str, object] = field(default_factory=dict)

    def __call__(self, model, x, y, examples):
        return self.craft(model, x, y, examples)
