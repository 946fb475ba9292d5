"""Ranks: a row stands behind another only where a paired test says so."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from harness.results.rows import Row
from harness.results.stats import holm, mcnemar
from harness.results.trainings import trainings

LEVEL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """An exact McNemar test between two rows, by their numbers, on their n common images.

    `only_first`, `only_second`: on how many images only that row is robust. `p`, `adjusted`: before and after Holm.
    """

    first: int
    second: int
    only_first: int
    only_second: int
    n: int
    p: float
    adjusted: float


def paired_tests(bits: Sequence[str]) -> list[PairedTest]:
    """Run exact McNemar tests between all pairs of rows, on the images that both have, with Holm's correction.

    `bits`: for each row one character for each image, 1 where it stands.
    """
    pairs = list(itertools.combinations(range(len(bits)), 2))
    counts = [discordant(bits[i], bits[j]) for i, j in pairs]
    raw = [mcnemar(only_first, only_second) for only_first, only_second, _ in counts]
    return [
        PairedTest(first=i, second=j, only_first=a, only_second=b, n=n, p=p, adjusted=adjusted)
        for (i, j), (a, b, n), p, adjusted in zip(pairs, counts, raw, holm(raw), strict=True)
    ]


def discordant(first: str, second: str) -> tuple[int, int, int]:
    """Count the common images that only the first keeps, those that only the second keeps, and all common images."""
    n = min(len(first), len(second))
    only_first = sum(a == "1" and b == "0" for a, b in zip(first[:n], second[:n], strict=True))
    only_second = sum(a == "0" and b == "1" for a, b in zip(first[:n], second[:n], strict=True))
    return only_first, only_second, n


def ranks(rows: Sequence[Row], threat: str, rank_limited: bool = False) -> list[int | None]:
    """Rank rows by the worst case under one threat model: 1 + the number of rows that are significantly better.

    None for rows that have no number there, or not all images of the split, unless `rank_limited`. Of several
    trainings of one defense the one with the lowest seed competes, the others have None. Rows on other images are
    ranked among themselves.
    """
    found: list[int | None] = [None] * len(rows)
    for data in {row.data_sha256 for row in rows}:
        here = [i for i, row in enumerate(rows) if row.data_sha256 == data]
        for i, place in zip(here, _ranks([rows[i] for i in here], threat, rank_limited), strict=True):
            found[i] = place
    return found


def _ranks(rows: Sequence[Row], threat: str, rank_limited: bool) -> list[int | None]:
    """Rank rows that were measured on the same images."""
    worst = [row.worst(threat) for row in rows]
    full = [max((cell.split_size for cell in row.cells.values()), default=0) for row in rows]
    counted = [
        i
        for i, bits in enumerate(worst)
        if bits and (rank_limited or len(bits) == full[i]) and _competes(rows[i], rows)
    ]
    beaten = dict.fromkeys(counted, 0)
    for test in paired_tests([worst[i] for i in counted]):
        if test.adjusted < LEVEL:
            loser = test.second if test.only_first > test.only_second else test.first
            beaten[counted[loser]] += 1
    return [1 + beaten[i] if i in beaten else None for i in range(len(rows))]


def placed(rows: Sequence[Row], rank_limited: bool) -> dict[tuple[int, str], int | None]:
    """Rank every row among those on the same images: (number of the row, threat model) -> rank."""
    found: dict[tuple[int, str], int | None] = {}
    for threat in {threat for row in rows for threat in row.ranked_threats()}:
        found |= {(i, threat): place for i, place in enumerate(ranks(rows, threat, rank_limited))}
    return found


def in_order(rows: Sequence[Row], ranked: Sequence[int | None]) -> list[int]:
    """Sort the numbers of the rows by rank; the other trainings of a defense follow the one that is ranked."""
    place = {id(row): rank or len(rows) + 1 for row, rank in zip(rows, ranked, strict=True)}
    groups = sorted(trainings(rows), key=lambda together: place[id(together[0])])
    at = {id(row): i for i, row in enumerate(rows)}
    return [at[id(row)] for together in groups for row in together]


def unranked(row: Row, rows: Sequence[Row]) -> str:
    """Say in words why a row has no rank."""
    return "not ranked" if _competes(row, rows) else "another training"


def _competes(row: Row, rows: Sequence[Row]) -> bool:
    """Tell whether a row is the first of its trainings."""
    return any(row is together[0] for together in trainings(rows))
