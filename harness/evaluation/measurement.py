"""One shard of images, and what comes of one cell on it: a measurement, or a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.errors import HarnessError


class Refused(HarnessError):
    """A shard whose images or model failed verification; `reasons` counts the images for each reason."""

    def __init__(self, reasons: Mapping[str, int], n: int) -> None:
        self.reasons = dict(reasons)
        super().__init__("; ".join(f"{reason}: {count} of {n} images" for reason, count in self.reasons.items()))


@dataclass(slots=True, kw_only=True)
class Measurement:
    """What was measured of one cell on one shard. Strings hold one character for each image, 1 for yes.

    `clean`: right on the clean image. `raw`: right on the one returned image, wherever it lies. `last`: broken by the
    final image, inside the threat model. `any`: broken by the final or any other reported image inside it. `distances`:
    of the final images, in the unit of the threat model, or None. `forwards`, `backwards`: images that went forward and
    that a gradient came back to.
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
