"""Rows are told apart by hashes; what is readable says which is which, and how much of it that takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from harness.registry.names import unlabelled
from harness.storage.schema import UNTRAINED

if TYPE_CHECKING:
    from harness.results.rows import Row
    from harness.storage.schema import NetworkIdentity

ABSENT = "absent"
"""What an origin says where nothing could be hashed."""


def source_of(identity: NetworkIdentity) -> str:
    """Read the sha256 of the source of a user's own network from its origin; empty for what plugins provide.

    The origin of one's own network is its name without the label, `@`, and that sha256. The name is the user's choice;
    the sha256 says what it is.
    """
    name, _, sha256 = identity["defense_origin"].rpartition("@")
    own = bool(name) and unlabelled(identity["defense"]) == unlabelled(name) and sha256 != ABSENT
    return sha256 if own else ""


def data_titles(rows: Iterable[Row]) -> dict[str, str]:
    """Title the test images that rows were measured on: their sha256 -> the dataset's name.

    Where several have one name the start of the sha256 follows it: `folder:val (sha 1a2b3c)`.
    """
    names: dict[str, str] = {}
    for row in rows:
        names[row.data_sha256] = min(row.dataset, names.get(row.data_sha256, row.dataset))
    counts = Counter(name for sha256, name in names.items() if sha256)
    shown = abbreviated(names, 6)
    return {
        sha256: f"{name} (sha {shown[sha256]})" if sha256 and counts[name] > 1 else name
        for sha256, name in names.items()
    }


def tell_apart(rows: Sequence[Row]) -> None:
    """Give each row the shortest distinction with which no two have one name, nor two subjects one title.

    Rows of one title differ first in their data, then in network and recipe, in weights that were given, and in source;
    trainings with one seed differ in weights.
    """
    titles = data_titles(rows)
    weights = abbreviated((row.weights_sha256 for row in rows), 8)
    origins = abbreviated((row.defense_origin.rpartition("@")[2] for row in rows), 8)

    def data(row: Row) -> str:
        return f" on {titles[row.data_sha256]}"

    def network(row: Row) -> str:
        return f" ({row.arch}, {row.recipe})"

    def weight(row: Row) -> str:
        return f" (weights {weights[row.weights_sha256]})" if row.weights_sha256 else " (no weights)"

    def given(row: Row) -> str:
        return weight(row) if row.recipe in UNTRAINED else ""

    def source(row: Row) -> str:
        return f" (source {origins[row.defense_origin.rpartition('@')[2]]})"

    for row in rows:
        row.distinction = ""
    for level in (data, network, given, source):
        _distinguish(rows, lambda row: row.title, lambda row: row.subject, level)
    _distinguish(rows, lambda row: row.name, lambda row: row.key, weight)


def _distinguish(
    rows: Sequence[Row], called: Callable[[Row], str], what: Callable[[Row], object], level: Callable[[Row], str]
) -> None:
    """Add a level to the distinction of rows that are called the same and are not, where that says which is which."""
    together: dict[str, list[Row]] = {}
    for row in rows:
        together.setdefault(called(row), []).append(row)
    for alike in together.values():
        told = [level(row) for row in alike]
        if len({what(row) for row in alike}) > 1 and len(set(told)) > 1:
            for row, words in zip(alike, told, strict=True):
                row.distinction += words


def abbreviated(hashes: Iterable[str], least: int) -> dict[str, str]:
    """Cut hashes to one length, `least` digits or as many more as it takes for each to stay different."""
    every = set(hashes)
    length = least
    while len({one[:length] for one in every}) < len(every):
        length += 1
    return {one: one[:length] for one in every}
