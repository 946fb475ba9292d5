"""A board as data: `board.toml` says what its rows and columns are; nothing about a board is in code.

title = "AALP, later version, table 2: MNIST"
kind = "paper"                          # or "ranked": no printed values, ranked by worst case
dataset = "mnist"                       # and arch, recipe, threat, n, seed, train_seeds, reading: rows and columns
...                                     # may each set their own
[paper]                                 # the paper's setting, with which every cell is compared
name = "AALP-v2"
arch = "madry_mnist"
[[rows]]
label = "RAW"                           # as printed
printed = "raw"                         # as in paper.csv
defense = "raw"                         # as here
[[columns]]
label = "PGD10"
printed = "pgd10"
attack = "pgd-10"                       # or analysis = "cost" and quantity = "parameters"

`unmeasurable = "reason"`, of the board, a row, a column or (in a row, by the labels of columns) a cell, says why no
command ever measures it; `unmeasured = "reason"`, in the same places, why nobody has yet. Tables print both.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from harness.errors import UsageError
from harness.leaderboard import tolerance as tolerances
from harness.leaderboard.setting import Setting
from harness.leaderboard.tolerance import Tolerance
from harness.storage.schema import Identity

FILE = "board.toml"
READINGS = ("robust", "last", "raw")
Reasons = str | Mapping[str, str]
"""A reason for a whole row, or for some of its cells: label of the column -> reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDefinition:
    """A row: how the paper prints it (`label`), what `paper.csv` calls it (`printed`), and the defense here.

    `defense` is empty where nothing here is that row. `printed_dataset` and `printed_arch` tell rows of one name apart,
    in the words of `paper.csv`. `paper_arch`, `paper_n`: the paper's network and number of images in this row, where
    they are not the board's. `fill`: name -> what stands for `{name}` in the attack, analysis, quantity and printed
    attack of the columns.
    """

    label: str
    printed: str = ""
    printed_dataset: str = ""
    printed_arch: str = ""
    paper_arch: str = ""
    paper_n: int | None = None
    defense: str = ""
    unmeasurable: Reasons = ""
    unmeasured: Reasons = ""
    fill: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDefinition:
    """A column: an attack, or a quantity of an analysis; `metric` and `printed` are what `paper.csv` calls it.

    `scale`: what a measured quantity is multiplied by to be in the paper's unit. `tolerance`: where it is not the
    board's.
    """

    label: str
    printed: str = ""
    metric: str = "accuracy"
    attack: str = ""
    analysis: str = ""
    quantity: str = ""
    scale: float = 1.0
    tolerance: Tolerance | None = None
    unmeasurable: str = ""
    unmeasured: str = ""
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperDefinition:
    """The paper's own setting, as far as it is stated; `name` is what `paper.csv` calls it.

    `split`: which images its numbers are of; here they are always those of the `test` split.
    """

    name: str = ""
    arch: str = ""
    recipe: str = ""
    threat: str = ""
    n: int | None = None
    split: str = "test"
    protocol: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A whole board, as its `board.toml` defines it.

    `tolerance`: by how much a measured number may differ and still reproduce a printed one. `attacks` and `analyses`:
    what a ranked board runs, as on the command line, instead of columns. `rank_limited`: rows on fewer images than the
    split has are ranked too. `ours`: the settings that no source states, in words.
    """

    name: str
    title: str
    kind: Literal["paper", "ranked"]
    settings: Mapping[str, Any]
    rows: tuple[RowDefinition, ...]
    columns: tuple[ColumnDefinition, ...]
    paper: PaperDefinition
    attacks: Sequence[str] = ()
    analyses: Sequence[str] = ()
    tolerance: Tolerance = field(default_factory=Tolerance)
    rank_limited: bool = False
    unmeasurable: str = ""
    unmeasured: str = ""
    source: str = ""
    note: str = ""
    ours: Sequence[str] = ()

    def column(self, row: RowDefinition, column: ColumnDefinition) -> ColumnDefinition:
        """Fill a row's words into a column: its attack, analysis, quantity and printed attack."""
        words = {}
        for name in ("attack", "analysis", "quantity", "printed"):
            text = getattr(column, name)
            for key, value in row.fill.items():
                text = text.replace(f"{{{key}}}", value)
            words[name] = text
        return dataclasses.replace(column, **words)

    def wants(self, identity: Identity) -> bool:
        """Tell whether a record, by its identity, is of one of the cells: by defense and attack or analysis."""
        name = identity.get("attack") or identity.get("analysis")
        return any(
            row.defense == identity["defense"] and name in (filled.attack, filled.analysis)
            for row in self.rows
            for filled in (self.column(row, column) for column in self.columns)
        )

    def never(self, row: RowDefinition, column: ColumnDefinition | None = None) -> str:
        """Find the stated reason why no command measures a cell, or a whole row; empty where none is stated."""
        return _reason(row.unmeasurable, column) or (column.unmeasurable if column else "") or self.unmeasurable

    def not_yet(self, row: RowDefinition, column: ColumnDefinition) -> str:
        """Find the stated reason why a cell is not measured so far; empty where none is stated."""
        return _reason(row.unmeasured, column) or column.unmeasured or self.unmeasured

    def setting(self, row: RowDefinition, column: ColumnDefinition) -> Setting:
        """Put together the setting of one cell: the column's fields override the row's, and those the board's."""
        return Setting(**{**self.settings, **row.settings, **column.settings})


def _reason(stated: Reasons, column: ColumnDefinition | None) -> str:
    """Pick the reason for a row's cell out of what the row states."""
    if isinstance(stated, str):
        return stated
    return stated.get(column.label, "") if column else ""


Part = TypeVar("Part", RowDefinition, ColumnDefinition)


def read(board: Path) -> Definition | None:
    """Read a board's definition; None where it has none.

    Raises:
        UsageError: naming what cannot be understood.
    """
    path = board / FILE
    if not path.exists():
        return None
    try:
        data = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from error
    try:
        rows = tuple(_part(RowDefinition, row, f"{path}, row {i}") for i, row in enumerate(data.pop("rows", []), 1))
        columns = tuple(
            _part(ColumnDefinition, column, f"{path}, column {i}")
            for i, column in enumerate(data.pop("columns", []), 1)
        )
        paper = PaperDefinition(**data.pop("paper", {}))
        settings = _settings(data, str(path))
        data["tolerance"] = tolerances.read(data.get("tolerance", {}), str(path), Tolerance())
        columns = tuple(_tolerant(column, data["tolerance"], str(path)) for column in columns)
        found = Definition(name=board.name, settings=settings, rows=rows, columns=columns, paper=paper, **data)
    except TypeError as error:
        raise UsageError(f"{path}: {error}") from error
    _check(found, path)
    return found


def _settings(data: dict[str, Any], where: str) -> dict[str, Any]:
    """Take the fields of `Setting` out of a table, which loses them.

    Raises:
        UsageError: for a reading that there is none of, and for seeds that are no numbers.
    """
    names = [field.name for field in dataclasses.fields(Setting)]
    found = {name: data.pop(name) for name in names if name in data}
    if found.get("reading", "robust") not in READINGS:
        raise UsageError(f"{where}: reading = '{found['reading']}' must be one of {', '.join(READINGS)}")
    if "train_seeds" in found:
        seeds = found["train_seeds"]
        numbers = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
        if not seeds or not numbers or len(set(seeds)) < len(seeds):
            raise UsageError(f"{where}: train_seeds = {seeds} must be a list of different numbers, as in [0, 1, 2]")
        found["train_seeds"] = tuple(seeds)
    return found


def _part(kind: type[Part], data: dict[str, Any], where: str) -> Part:
    settings = _settings(data, where)
    try:
        return kind(settings=settings, **data)
    except TypeError as error:
        raise UsageError(f"{where}: {error}") from error


def _tolerant(column: ColumnDefinition, of_board: Tolerance, where: str) -> ColumnDefinition:
    """Read the tolerance of a column; what it leaves out is the board's."""
    found = tolerances.read(column.tolerance or {}, f"{where}, column '{column.label}'", of_board)
    return dataclasses.replace(column, tolerance=found)


def _check(found: Definition, path: Path) -> None:
    if found.kind not in ("paper", "ranked"):
        raise UsageError(f"{path}: kind = '{found.kind}' must be paper or ranked")
    for part in (found.rows, found.columns):
        labels = [one.label for one in part]
        keys = [(one.label, getattr(one, "printed_dataset", "")) for one in part]
        if len(set(keys)) < len(keys):
            raise UsageError(f"{path}: '{max(labels, key=labels.count)}' stands twice")
    for row in found.rows:
        for stated in (row.unmeasurable, row.unmeasured):
            unknown = set() if isinstance(stated, str) else set(stated) - {column.label for column in found.columns}
            if unknown:
                raise UsageError(f"{path}: row '{row.label}' gives a reason for '{min(unknown)}', which is no column")
    for column in found.columns:
        if bool(column.attack) == bool(column.analysis) and (column.attack or found.kind == "ranked"):
            raise UsageError(f"{path}: column '{column.label}' needs an attack or an analysis")
