"""The images that are attacked and recorded together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from harness.data.dataset import LoadedDataset
    from harness.types import Images, Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The images at consecutive positions [start, stop) of the fixed order, with their indices in the split."""

    start: int
    stop: int
    examples: tuple[int, ...]
    x: Images
    y: Labels
    data_sha256: str

    @classmethod
    def of(cls, data: LoadedDataset, span: tuple[int, int], device: torch.device) -> Shard:
        """Load the test images at the positions [start, stop) of the fixed order that `span` names."""
        test, examples = data.part("test"), data.order()[slice(*span)]
        x, y = test.batch(examples, device)
        return cls(
            start=span[0], stop=span[1], examples=tuple(int(i) for i in examples), x=x, y=y, data_sha256=test.sha256
        )
