"""Batches of one cell, put together into the measurement of a shard."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.evaluation.judge import Examined
from harness.evaluation.measurement import Measurement, Refused

if TYPE_CHECKING:
    from harness.types import Flags


@dataclass(slots=True, kw_only=True)
class Piece:
    """What one batch gave for one cell.

    `cost`: images that went forward and that a gradient came back to. `codes`: example -> the code of the image that
    broke it, for those asked for.
    """

    examined: Examined
    cost: tuple[int, int]
    codes: dict[int, np.ndarray]


def join(pieces: list[Piece], clean: Flags) -> Measurement | Refused:
    """Put the batches of a shard end to end; `clean` (n,): which clean images are classified correctly.

    A shard with anything that failed verification is refused as a whole.
    """
    seen = [piece.examined for piece in pieces]
    reasons: Counter[str] = sum((examined.reasons for examined in seen), Counter())
    if len({tuple(sorted(examined.details)) for examined in seen}) > 1:
        reasons["other details told in other batches"] = len(clean)
    if reasons:
        return Refused(reasons, len(clean))
    minimal = [examined.distances for examined in seen if examined.distances is not None]
    counts = {
        "false_claims": sum(examined.false_claims for examined in seen),
        "out_of_range": sum(examined.out_of_range for examined in seen),
    }
    return Measurement(
        n=len(clean),
        clean=_bits([clean]),
        raw=_bits([examined.raw for examined in seen]),
        last=_bits([examined.last for examined in seen]),
        any=_bits([examined.any for examined in seen]),
        distances=[float(value) for distances in minimal for value in distances] if minimal else None,
        forwards=sum(piece.cost[0] for piece in pieces),
        backwards=sum(piece.cost[1] for piece in pieces),
        flags={name: float(count) for name, count in counts.items() if count},
        details={
            name: [value for examined in seen for value in examined.details[name].tolist()] for name in seen[0].details
        },
    )


def _bits(parts: list[Flags]) -> str:
    return "".join("1" if bit else "0" for part in parts for bit in part.tolist())
