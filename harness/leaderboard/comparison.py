"""Printed beside measured: every cell of a paper's board, with the difference and a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.errors import StoreError
from harness.leaderboard.definition import ColumnDefinition, Definition, RowDefinition
from harness.leaderboard.printed import Key, PrintedValue
from harness.leaderboard.setting import Setting
from harness.results.cells import CellResult
from harness.results.rows import Row
from harness.results.stats import wilson

NOT_MEASURED = "not measured"
REPRODUCED = "reproduced"
DIFFERS = "differs"
DIFFERENT_SETTING = "different setting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A measured number in per cent, or in the unit of its analysis, with its interval where it is a share.

    `n`: how many images the number is of; `images`: how many were looked at to find them, which is more where it is of
    a subset. `over_seeds`: the values of the training seeds that are measured, where there are several; `trainings`:
    how many the board wants. `records`: see `CellResult`.
    """

    value: float
    n: int
    images: int
    low: float | None = None
    high: float | None = None
    flags: tuple[str, ...] = ()
    records: str = ""
    over_seeds: tuple[float, ...] = ()
    trainings: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedCell:
    """One cell of a paper's board, printed beside measured.

    `others`: what other versions of the paper print where that differs. `reasons`: in which respects the setting is
    another than the paper's. `why`: the board's reason for a cell that is not measured.
    """

    row: RowDefinition
    column: ColumnDefinition
    printed: PrintedValue | None
    others: tuple[PrintedValue, ...]
    measured: Measured | None
    verdict: str
    reasons: tuple[str, ...] = ()
    why: str = ""

    @property
    def difference(self) -> float | None:
        """The measured value minus the printed one, in points for accuracies; None where either is missing."""
        if self.printed is None or self.measured is None:
            return None
        return self.measured.value - self.printed.value

    @property
    def in_words(self) -> str:
        """The verdict, with its reasons in brackets, or with the board's behind a colon."""
        if self.why:
            return f"{self.verdict}: {self.why}"
        return f"{self.verdict} ({', '.join(self.reasons)})" if self.reasons else self.verdict


def compare(
    definition: Definition, printed: Mapping[Key, Sequence[PrintedValue]], rows: Sequence[Row]
) -> Iterator[list[ComparedCell]]:
    """Compare printed with measured numbers; yields the cells of each row of a board, in the paper's order."""
    for row in definition.rows:
        columns = [definition.column(row, column) for column in definition.columns]
        yield [_cell(definition, row, column, printed, rows) for column in columns]


def threat_of(setting: Setting, column: ColumnDefinition) -> str:
    """Name the threat model that a cell is looked up under: `none` for clean accuracy."""
    return "none" if column.attack == "clean" else setting.threat


def measured_row(row: RowDefinition, setting: Setting, rows: Sequence[Row], train_seed: int) -> Row | None:
    """Find the measured row that a row of a board stands for, of one training seed; None where there is none."""
    wanted = {"dataset": setting.dataset, "arch": setting.arch, "recipe": setting.recipe}
    for found in rows:
        same = all(not value or getattr(found, name) == value for name, value in wanted.items())
        if same and found.defense == row.defense and found.train_seed == train_seed:
            return found
    return None


def _cell(
    definition: Definition, row: RowDefinition, column: ColumnDefinition,
    printed: Mapping[Key, Sequence[PrintedValue]], rows: Sequence[Row],
) -> ComparedCell:  # fmt: skip
    setting = definition.setting(row, column)
    own, others = _printed(definition, row, column, setting, printed)
    first, *more = setting.train_seeds
    subject = measured_row(row, setting, rows, first)
    measured = measure(row, column, setting, rows, first)
    if measured is None or subject is None:
        why = definition.never(row, column) or definition.not_yet(row, column)
        return ComparedCell(
            row=row, column=column, printed=own, others=others, measured=None, verdict=NOT_MEASURED, why=why
        )
    again = [found.value for seed in more if (found := measure(row, column, setting, rows, seed))]
    if more:
        measured = replace(measured, over_seeds=(measured.value, *again), trainings=1 + len(more))
    if own is None:
        return ComparedCell(row=row, column=column, printed=None, others=others, measured=measured, verdict="")
    reasons = _reasons(definition, row, subject, setting, column, measured)
    close = (column.tolerance or definition.tolerance).allows(measured.value, own)
    if measured.low is not None and measured.high is not None:
        close = close or measured.low <= own.value <= measured.high
    verdict = DIFFERENT_SETTING if reasons else REPRODUCED if close else DIFFERS
    return ComparedCell(
        row=row, column=column, printed=own, others=others, measured=measured, verdict=verdict, reasons=reasons
    )


def _printed(
    definition: Definition, row: RowDefinition, column: ColumnDefinition, setting: Setting,
    printed: Mapping[Key, Sequence[PrintedValue]],
) -> tuple[PrintedValue | None, tuple[PrintedValue, ...]]:  # fmt: skip
    dataset = row.printed_dataset or setting.dataset
    found = printed.get((dataset, row.printed, column.printed, column.metric), [])
    if row.printed_arch:
        found = [value for value in found if value.arch == row.printed_arch]
    candidates = [value for value in found if value.paper == definition.paper.name]
    if len(networks := {value.arch for value in candidates}) > 1:
        raise StoreError(
            f"board '{definition.name}', row '{row.label}', column '{column.label}': printed for several networks "
            f"({', '.join(sorted(networks))}); say which with printed_arch"
        )
    own = next(iter(candidates), None)
    others = tuple(value for value in found if own is not None and value.value != own.value)
    return own, others


def measure(
    row: RowDefinition, column: ColumnDefinition, setting: Setting, rows: Sequence[Row], train_seed: int
) -> Measured | None:
    """Look up the number of one cell, of one training seed; None where it is not measured."""
    subject = measured_row(row, setting, rows, train_seed)
    if subject is None:
        return None
    if column.analysis:
        quantity = subject.analyses.get(column.analysis, {}).get(column.quantity)
        if quantity is None or quantity.value is None:
            return None
        images = subject.analysis_images[column.analysis]
        return Measured(value=quantity.value * column.scale, n=quantity.n, images=images)
    cell = subject.cells.get((column.attack, threat_of(setting, column), setting.seed))
    if cell is None:
        return None
    bits = _bits(cell, setting)
    low, high = wilson(bits.count("1"), len(bits))
    flags = tuple(name for name in ("as_published",) if cell.flags.get(name))
    share = 100 * bits.count("1") / len(bits)
    return Measured(
        value=share, n=len(bits), images=len(bits), low=100 * low, high=100 * high, flags=flags, records=cell.records
    )


def _bits(cell: CellResult, setting: Setting) -> str:
    """Read a cell in the reading of the column: 1 for each image that stands, over the first n of the fixed order."""
    if setting.reading == "raw" or cell.attack == "clean":
        bits = cell.raw
    else:
        bits = cell.robust_last if setting.reading == "last" else cell.robust
    return bits[: setting.n] if setting.n else bits


def _reasons(
    definition: Definition, row: RowDefinition, subject: Row, setting: Setting, column: ColumnDefinition,
    measured: Measured,
) -> tuple[str, ...]:  # fmt: skip
    """List in which respects a cell was measured differently than the paper did."""
    paper = definition.paper
    found = []
    n = row.paper_n if row.paper_n is not None else paper.n
    if n is not None and measured.images != n:
        found.append("n")
    if paper.split != "test":
        found.append("split")
    if paper.recipe and subject.recipe != paper.recipe:
        found.append("recipe")
    arch = row.paper_arch or paper.arch
    if arch and subject.arch != arch:
        found.append("network")
    if paper.threat and not column.analysis and column.attack != "clean" and setting.threat != paper.threat:
        found.append("eps")
    if setting.protocol != paper.protocol:
        found.append("protocol")
    return tuple(found)
