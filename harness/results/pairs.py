"""Two rows on the same images: the difference under every attack both were given, with a paired test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.errors import NothingSelected
from harness.results.ranking import discordant
from harness.results.rows import Row
from harness.results.stats import mcnemar, paired_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One attack on both rows; accuracies and the difference's bounds in per cent, over their n common images."""

    attack: str
    threat: str
    n: int
    first: float
    second: float
    low: float
    high: float
    only_first: int
    only_second: int
    p: float

    @property
    def difference(self) -> float:
        """The first accuracy minus the second, in points."""
        return self.first - self.second


def pairs(first: Row, second: Row) -> list[Pair]:
    """Compare two rows under every attack that both have under one threat model and seed, then in the worst cases.

    Raises:
        NothingSelected: where they are one row, their images are not the same, or they share no attack.
    """
    if first.key == second.key:
        raise NothingSelected(f"{first.name} would be compared with itself")
    if first.data_sha256 != second.data_sha256:
        raise NothingSelected(f"{first.name} and {second.name} were not measured on the same images")
    found = list(_pairs(first, second))
    if not found:
        raise NothingSelected(f"{first.name} and {second.name} share no attack")
    return found


def _pairs(first: Row, second: Row) -> Iterator[Pair]:
    for key, cell in first.cells.items():
        if key in second.cells:
            yield _pair(cell.attack, cell.threat, cell.robust, second.cells[key].robust)
    for threat in first.ranked_threats():
        if threat in second.ranked_threats():
            yield _pair("worst case", threat, first.worst(threat), second.worst(threat))


def _pair(attack: str, threat: str, first: str, second: str) -> Pair:
    only_first, only_second, n = discordant(first, second)
    low, high = paired_interval(only_first, only_second, n)
    shares = [100 * bits[:n].count("1") / n for bits in (first, second)]
    return Pair(
        attack=attack, threat=threat, n=n, first=shares[0], second=shares[1], low=100 * low, high=100 * high,
        only_first=only_first, only_second=only_second, p=mcnemar(only_first, only_second),
    )  # fmt: skip
