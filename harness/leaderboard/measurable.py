"""Which cells of a board no command can measure, by planning every one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from harness.errors import NothingSelected, UsageError
from harness.leaderboard.comparison import threat_of
from harness.leaderboard.definition import ColumnDefinition, Definition, RowDefinition
from harness.leaderboard.missing import request_for
from harness.leaderboard.setting import Setting
from harness.planning.plan import Plan, plan
from harness.registry.registry import Registry
from harness.results.rows import Row
from harness.types import Analysis, Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Hindrance:
    """Cells of one row that no command measures: labels of the columns, none for the whole row of a ranked board.

    `stated`: the board's reason, empty where it has none. `found`: what stands in the way, empty where a reason is
    stated.
    """

    row: str
    columns: tuple[str, ...]
    stated: str
    found: str

    @property
    def in_words(self) -> str:
        """Name the cells, and why they are never measured."""
        columns = f", column {', '.join(self.columns)}" if self.columns else ""
        return f"row '{self.row}'{columns}: {self.stated or self.found}"


def hindrances(definition: Definition, registry: Registry, measured: Sequence[Row] = ()) -> list[Hindrance]:
    """Plan every cell of a board; list those that nothing measures, those of a row and of one reason together.

    `measured`: rows of the board's records, which tell the quantities that an analysis has.
    """
    together: dict[tuple[str, str, str], list[str]] = {}
    for row in definition.rows:
        label = f"{row.label} ({row.printed_dataset})" if row.printed_dataset else row.label
        for column, stated, found in _of_row(definition, row, registry, measured):
            together.setdefault((label, stated, found), []).extend(column)
    return [
        Hindrance(row=row, columns=tuple(columns), stated=stated, found=found)
        for (row, stated, found), columns in together.items()
    ]


def _of_row(
    definition: Definition, row: RowDefinition, registry: Registry, measured: Sequence[Row]
) -> Iterator[tuple[list[str], str, str]]:  # fmt: skip
    """Yield the label of each cell's column, the stated reason and what was found, one of which is empty."""
    if definition.kind == "ranked":
        stated = definition.never(row)
        found = "" if stated else _of_ranked(definition, row, registry)
        if stated or found:
            yield [], stated, found
        return
    for bare in definition.columns:
        column = definition.column(row, bare)
        stated = definition.never(row, column)
        found = "" if stated else _of_cell(definition.setting(row, column), row, column, registry)
        found = found or ("" if stated else _of_quantity(row, column, measured))
        if stated or found:
            yield [column.label], stated, found


def _of_ranked(definition: Definition, row: RowDefinition, registry: Registry) -> str:
    """Say why a ranked row gets no cell; empty where it gets one."""
    setting = definition.setting(row, ColumnDefinition(label="", settings={}))
    if not row.defense:
        return "it names no defense"
    found = _planned(setting, row, tuple(definition.attacks), tuple(definition.analyses), registry)
    return found if isinstance(found, str) else _other_subject(setting, row, found.subjects)


def _of_cell(setting: Setting, row: RowDefinition, column: ColumnDefinition, registry: Registry) -> str:
    """Say why a cell cannot be measured; empty where its own request plans it."""
    if not row.defense:
        return "the row names no defense"
    if not column.attack and not column.analysis:
        return "the column names no attack and no analysis"
    named = (column.attack,) if column.attack else (), (column.analysis,) if column.analysis else ()
    found = _planned(setting, row, *named, registry)
    if isinstance(found, str):
        return found
    if other := _other_subject(setting, row, found.subjects):
        return other
    if column.analysis:
        names = [one.analysis for one in found.analyses]
        return "" if column.analysis in names else f"its command measures {', '.join(names)}, not {column.analysis}"
    wanted = (column.attack, threat_of(setting, column), setting.seed)
    cells = [(cell.attack, str(cell.threat), cell.seed) for cell in found.cells]
    told = ", ".join(f"{attack} under {threat}" for attack, threat, _ in cells)
    return "" if wanted in cells else f"its command measures {told}, not {wanted[0]} under {wanted[1] or 'nothing'}"


def _of_quantity(row: RowDefinition, column: ColumnDefinition, measured: Sequence[Row]) -> str:
    """Say that an analysis of a defense has no such quantity, where a record of it tells."""
    for found in (found for found in measured if found.defense == row.defense):
        if column.quantity not in found.analyses.get(column.analysis, {column.quantity: None}):
            return f"analysis {column.analysis} has no quantity '{column.quantity}'"
    return ""


def _planned(
    setting: Setting, row: RowDefinition, attacks: tuple[str, ...], analyses: tuple[str, ...], registry: Registry
) -> Plan | str:  # fmt: skip
    """Plan a row's own request, or say why it cannot be planned."""
    try:
        return plan(request_for(replace(setting, protocol=""), attacks, analyses, [row.defense]), registry)
    except NothingSelected as error:
        own = [name for name in analyses if registry.entry(Analysis, name).spec.only_of]
        if not attacks and own:
            return f"analysis {', '.join(own)} is not of {row.defense}"
        return " ".join(str(error).split())
    except UsageError as error:
        return " ".join(str(error).split())


def _other_subject(setting: Setting, row: RowDefinition, subjects: list[Subject]) -> str:
    """Say which other subject than the row's its command measures; empty where it is the row's own."""
    (subject,) = subjects
    recipe = subject.recipe.name if subject.recipe else ""
    wanted = {"defense": row.defense, "arch": setting.arch, "recipe": setting.recipe}
    planned = {"defense": subject.defense, "arch": subject.arch, "recipe": recipe}
    differing = [name for name, value in wanted.items() if value and planned[name] != value]
    return "; ".join(f"its command measures {name} {planned[name]}, not {wanted[name]}" for name in differing)
