"""The setting that a cell of a board is measured in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The setting that a cell is measured in; empty where a defense or a dataset decides.

    `n`: how many test images, None for all. `reading`: `robust`, `last` or `raw`. `protocol`: in words, what else the
    number rests on; cells whose words differ from the paper's are not comparable. `train_seeds`: in a paper's board the
    number is that of the first, with the range over all of them; in a ranked board each is a row, and the first is
    ranked.
    """

    dataset: str = ""
    arch: str = ""
    recipe: str = ""
    threat: str = ""
    n: int | None = None
    seed: int = 0
    train_seeds: tuple[int, ...] = (0,)
    reading: str = "robust"
    protocol: str = ""
