"""What a board still lacks, as requests to the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.errors import NothingSelected
from harness.leaderboard.comparison import NOT_MEASURED, compare
from harness.leaderboard.definition import ColumnDefinition, Definition, RowDefinition, Setting
from harness.leaderboard.rows import Row
from harness.request import Request


def requests(definition: Definition, rows: Sequence[Row], only: Sequence[str] = ()) -> list[Request]:
    """The fewest requests that measure every missing cell, in the order of the board; none where it is complete.

    A ranked board asks for all of its attacks: what is recorded already is reused. `only`: these datasets.

    Raises:
        NothingSelected: where no row names a defense.
    """
    if not any(row.defense for row in definition.rows):
        raise NothingSelected(f"board '{definition.name}' names no defense: nothing of it can be measured")
    wanted: dict[tuple[Setting, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for row, columns in _missing(definition, rows):
        settings: dict[Setting, list[ColumnDefinition]] = {}
        for column in columns:
            setting = replace(definition.setting(row, column), reading="robust", protocol="")
            settings.setdefault(setting, []).append(column)
        for setting, together in settings.items():
            if only and setting.dataset not in only:
                continue
            attacks = tuple(column.attack for column in together if column.attack)
            analyses = tuple(dict.fromkeys(column.analysis for column in together if column.analysis))
            wanted.setdefault((setting, attacks, analyses), []).append(row.defense)
    found = [_request(*key, defenses) for key, defenses in wanted.items()]
    if definition.kind == "ranked":
        bare = ColumnDefinition(label="", settings={})
        by_setting: dict[Setting, list[str]] = {}
        for row in definition.rows:
            setting = definition.setting(row, bare)
            if row.defense and (not only or setting.dataset in only):
                by_setting.setdefault(setting, []).append(row.defense)
        every = (tuple(definition.attacks), tuple(definition.analyses))
        found += [_request(setting, *every, defenses) for setting, defenses in by_setting.items()]
    return found


def _missing(definition: Definition, rows: Sequence[Row]) -> list[tuple[RowDefinition, list[ColumnDefinition]]]:
    found = []
    for cells in compare(definition, {}, rows):
        columns = [cell.column for cell in cells if cell.verdict == NOT_MEASURED and _measurable(cell.column)]
        if cells and cells[0].row.defense and columns:
            found.append((cells[0].row, columns))
    return found


def _measurable(column: ColumnDefinition) -> bool:
    return bool(column.attack or column.analysis)


def _request(
    setting: Setting, attacks: tuple[str, ...], analyses: tuple[str, ...], defenses: list[str]
) -> Request:  # fmt: skip
    threats = (setting.threat,) if setting.threat and set(attacks) - {"clean"} else ()
    return Request(
        defenses=list(dict.fromkeys(defenses)), attacks=attacks, analyses=analyses, dataset=setting.dataset,
        threats=threats, arch=setting.arch, recipe=setting.recipe,
        limit=setting.n, seed=setting.seed, train_seed=setting.train_seed,
    )  # fmt: skip
