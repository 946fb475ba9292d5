"""A board: a folder with committed records and the tables that follow from them, byte for byte."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.errors import BoardMismatch, StoreError
from harness.leaderboard import artifacts, environments, printed
from harness.leaderboard import definition as definitions
from harness.leaderboard.analyses import analyses_csv
from harness.leaderboard.definition import Definition
from harness.leaderboard.export import paper_latex, ranked_latex, robustbench_json
from harness.leaderboard.missing import unmeasured
from harness.leaderboard.paper_table import paper_csv, paper_markdown
from harness.leaderboard.tables import wide
from harness.leaderboard.tidy import tidy
from harness.results.rows import Row, rows
from harness.storage import atomic
from harness.storage.records import compact, read_compacted
from harness.storage.run_folder import COMPACTED, RunFolder
from harness.storage.schema import Record

RECORDS, ANALYSES = COMPACTED, "analyses.csv"
NAMING = ("row", "dataset", "defense", "arch", "recipe", "train_seed", "threat", "attack", "analysis", "quantity")
"""The columns of a CSV that name a cell's row."""


def build(board: Path, runs: Sequence[Path] = (), keep_artifacts: bool = False) -> list[Path]:
    """Add the records of complete runs to a board and write its tables anew; returns the files written.

    A paper's board takes the records of its own cells only.

    `keep_artifacts`: also the witnesses of the runs, and the weights beside them; see `harness.leaderboard.artifacts`.

    Raises:
        StoreError: where a run is incomplete, two records of one key differ, or the board would have no records.
    """
    kept: dict[str, Record] = {}
    definition = definitions.read(board)
    paper = definition if definition is not None and definition.kind == "paper" else None
    if (board / RECORDS).exists():
        kept = {record["key"]: record for record in read_compacted(board / RECORDS)}
    used = []
    for run in runs:
        wanted = [record for record in _complete(run) if paper is None or paper.wants(record["identity"])]
        used += [run] if wanted else []
        for record in wanted:
            key = record["key"]
            if kept.setdefault(key, record) != record:
                raise StoreError(f"{run}: record {key[:12]} differs from the one on {board}; both cannot be right")
    if not kept and definition is None:
        raise StoreError(f"{board} has no records yet: name finished runs with --add results/RUN_ID")
    atomic.replace(board / RECORDS, compact(kept.values()))
    environments.collect(board, used)
    if keep_artifacts:
        artifacts.collect(board, kept.values(), runs)
    tables = _tables(board, list(kept.values()))
    for path, text in tables.items():
        atomic.replace(path, text.encode())
    return [board / RECORDS, *tables]


def check(board: Path) -> int:
    """Rebuild a board's tables in memory and compare them with its files; returns how many records they rest on.

    Raises:
        BoardMismatch: where a table, the order of the records or an artifact differs, naming where.
        StoreError: where the records cannot be read.
    """
    records = read_compacted(board / RECORDS)
    if compact(records) != (board / RECORDS).read_bytes():
        raise BoardMismatch(f"{board / RECORDS} is not sorted by key: harness leaderboard build {board}")
    tables = _tables(board, records)
    if (board / ANALYSES).exists() and board / ANALYSES not in tables:
        raise BoardMismatch(f"{board / ANALYSES} is left over: no record is an analysis. Remove it")
    wrong = [_difference(path, text) for path, text in tables.items() if _read(path) != text]
    if wrong:
        raise BoardMismatch("\n".join([*wrong, f"the tables follow from records: harness leaderboard build {board}"]))
    artifacts.check(board)
    return len(records)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _difference(path: Path, text: str) -> str:
    """Say where a committed file first differs: the cell of a table, the line of anything else."""
    old, new = _read(path).splitlines(), text.splitlines()
    cells = _csv_cells if path.suffix == ".csv" else _markdown_cells
    for (row, column, was), (_, _, should) in zip(cells(old), cells(new), strict=False):
        if was != should:
            return f"{path}: row {row}, column {column}: '{was}' is committed, '{should}' follows from the records"
    changes = difflib.unified_diff(old, new, "committed", "from records", lineterm="", n=0)
    return "\n".join([f"{path} does not follow from its records", *list(changes)[:6]])


def _csv_cells(lines: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the name of the row, the column and the text of every cell."""
    for line in csv.DictReader(lines):
        row = ", ".join(line[name] for name in NAMING if line.get(name))
        yield from ((row, name, value) for name, value in line.items())


def _markdown_cells(lines: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    header: list[str] = []
    for line in lines:
        parts = [part.strip() for part in line.strip("|").split("|")] if line.startswith("|") else []
        if not parts:
            header = []
        elif not header:
            header = parts
        else:
            place = header.index("Defense") if "Defense" in header else 0
            yield from ((parts[place], name, part) for name, part in zip(header, parts, strict=False))


def export(board: Path, form: str) -> str:
    """Write a board as text, from its records: `csv`, `md`, `latex` or `robustbench`.

    Raises:
        NothingSelected: for `robustbench`, where no row has AutoAttack.
    """
    records = read_compacted(board / RECORDS)
    found, definition = rows(records), definitions.read(board)
    paper = definition if definition is not None and definition.kind == "paper" else None
    if form == "robustbench":
        return robustbench_json(found)
    if form == "latex":
        return paper_latex(paper, printed.read(board), found) if paper else ranked_latex(found)
    return _tables(board, records)[board / f"table.{form}"]


def _tables(board: Path, records: list[Record]) -> dict[Path, str]:
    """Make every generated file of a board: a paper's table, or the ranked one where the board has no definition."""
    found = rows(records)
    definition = definitions.read(board)
    if definition is not None and definition.kind == "paper":
        values = printed.read(board)
        return {
            board / "table.csv": paper_csv(definition, values, found),
            board / "table.md": paper_markdown(definition, values, found) + _footer(board),
        }
    limited = definition.rank_limited if definition is not None else False
    header = _header(definition, found) if definition is not None else ""
    tables = {
        board / "table.csv": tidy(found, rank_limited=limited),
        board / "table.md": header + wide(found, rank_limited=limited) + _footer(board),
    }
    analyses = analyses_csv(found)
    return {**tables, board / ANALYSES: analyses} if analyses else tables


def _footer(board: Path) -> str:
    return artifacts.footer(board) + environments.footer(board)


def _header(definition: Definition, found: Sequence[Row]) -> str:
    """Write title and note of a ranked board, and which of its rows no record is of."""
    told = [f"# {definition.title}", *([definition.note] if definition.note else [])]
    missing = unmeasured(definition, found)
    told += [f"No record of: {'; '.join(missing)}."] if missing else []
    return "\n\n".join(told) + "\n\n"


def _complete(run: Path) -> list[Record]:
    folder = RunFolder(run)
    document, keys = folder.promised()
    if document.get("absent"):
        raise StoreError(f"{run} is incomplete: no network for {', '.join(document['absent'])}")
    records = read_compacted(folder.compacted) if folder.compacted.exists() else []
    promised = set(keys)
    missing = len(promised - {record["key"] for record in records})
    if missing:
        raise StoreError(
            f"{run} is incomplete: {missing} of {len(keys)} records are missing. Run its command again to finish it"
        )
    return [record for record in records if record["key"] in promised]
