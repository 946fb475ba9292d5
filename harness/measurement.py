"""One shard of images, and what comes of one cell on it: a measurement, or a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.data import LoadedDataset
    from harness.types import Images, Labels


class Refused(HarnessError):
    """A shard whose images or model failed verification; `reasons` counts the images for each reason."""

    def __init__(self, reasons: Mapping[str, int], n: int) -> None:
        self.reasons = dict(reasons)
        super().__init__("; ".join(f"{reason}: {count} of {n} images" for reason, count in self.reasons.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Images of some positions of the fixed order, with their indices in the split."""

    start: int
    stop: int
    examples: tuple[int, ...]
    x: Images
    y: Labels
    data_sha256: str

    @classmethod
    def of(cls, data: LoadedDataset, span: tuple[int, int], device: torch.device) -> Shard:
        """The test images from one position of the fixed order up to another."""
        test, examples = data.part("test"), data.order()[slice(*span)]
        x, y = test.batch(examples, device)
        return cls(
            start=span[0], stop=span[1], examples=tuple(int(i) for i in examples), x=x, y=y, data_sha256=test.sha256
        )


@dataclass(slots=True, kw_only=True)
class Measurement:
    """One cell on one shard. Strings hold one character for each image, 1 for yes.

    `clean`: right on the clean image. `raw`: right on the one returned image, wherever it lies. `last`: broken by the
    final image, inside the threat model. `any`: broken by the final or any other reported image inside it.
    """

    n: int
    clean: str
    raw: str
    last: str
    any: str
    distances: list[float] | None
    forwards: int
    backwards: int
    flags: dict[str, float] = field(default_factory=dict)
    details: dict[str, list[float]] = field(default_factory=dict)
