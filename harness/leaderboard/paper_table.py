"""A paper's table with measured beside printed: a CSV with a line for each row, and Markdown for readers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from harness.leaderboard.comparison import ComparedCell, Measured, compare, measured_row
from harness.leaderboard.definition import Definition, RowDefinition
from harness.leaderboard.markdown import joined
from harness.leaderboard.printed import Key, PrintedValue
from harness.leaderboard.tables import flag_notes
from harness.results.rows import Row

PARTS = (
    "printed", "measured", "low", "high", "n", "seeds low", "seeds high", "trainings", "difference", "verdict",
    "other version", "records",
)  # fmt: skip
"""What the CSV holds for each column of the paper."""


def paper_csv(definition: Definition, printed: dict[Key, list[PrintedValue]], rows: Sequence[Row]) -> str:
    """Write the CSV: the paper's rows and columns in the paper's order; accuracies in per cent."""
    import pandas as pd

    lines = [_line(definition, cells, rows) for cells in compare(definition, printed, rows)]
    names = ["row", "dataset", "defense", "arch", "recipe"]
    names += [f"{column.label} {part}" for column in definition.columns for part in PARTS]
    return str(pd.DataFrame(lines, columns=names, dtype=object).to_csv(index=False, lineterminator="\n"))


def paper_markdown(definition: Definition, printed: dict[Key, list[PrintedValue]], rows: Sequence[Row]) -> str:
    """Write the Markdown: what was measured, what is printed, and the verdict, cell by cell; accuracies in per cent."""
    compared = list(compare(definition, printed, rows))
    lines = [f"# {definition.title}", ""]
    lines += [definition.source, ""] if definition.source else []
    lines += [definition.note, ""] if definition.note else []
    lines += [f"Ours, as no source states it: {', '.join(definition.ours)}.", ""] if definition.ours else []
    header = ["", *(column.label for column in definition.columns)]
    lines += [joined(header), joined(["---"] * len(header))]
    lines += [joined([_name(cells[0].row), *(_text(cell) for cell in cells)]) for cells in compared]
    lines += ["", *_legend(definition), "", *_settings(definition, compared, rows)]
    used = [row for row in rows if row.defense in {row.defense for row in definition.rows}]
    lines += [f"- {note}" for note in flag_notes(used)]
    return "\n".join(lines).rstrip() + "\n"


def verdict_counts(cells: Iterable[ComparedCell]) -> dict[str, int]:
    """Count the cells of each verdict."""
    counts: dict[str, int] = {}
    for cell in cells:
        counts[cell.verdict] = counts.get(cell.verdict, 0) + 1
    return dict(sorted(counts.items()))


def _line(definition: Definition, cells: Sequence[ComparedCell], rows: Sequence[Row]) -> dict[str, Any]:
    row = cells[0].row
    setting = definition.setting(row, cells[0].column)
    names = {"dataset": setting.dataset, "arch": setting.arch, "recipe": setting.recipe}
    line: dict[str, Any] = {"row": row.label, "defense": row.defense, **names}
    for cell in cells:
        measured, difference = cell.measured, cell.difference
        values = {
            "printed": cell.printed.text if cell.printed else "",
            "measured": number(measured.value) if measured else "",
            "low": number(measured.low) if measured else "",
            "high": number(measured.high) if measured else "",
            "n": measured.n if measured else "",
            "seeds low": number(min(measured.over_seeds)) if measured and measured.over_seeds else "",
            "seeds high": number(max(measured.over_seeds)) if measured and measured.over_seeds else "",
            "trainings": len(measured.over_seeds) or 1 if measured else "",
            "difference": f"{difference:+.2f}" if difference is not None else "",
            "verdict": cell.in_words,
            "records": measured.records if measured else "",
            "other version": "; ".join(f"{other.text} ({other.paper})" for other in cell.others),
        }
        line |= {f"{cell.column.label} {part}": value for part, value in values.items()}
    return line


def number(value: float | None) -> str:
    """Write a number as tables show it: two decimals, or four significant digits where those would hide it."""
    if value is None:
        return ""
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.4g}"


def _name(row: RowDefinition) -> str:
    return f"{row.label} ({row.printed_dataset})" if row.printed_dataset else row.label


def _text(cell: ComparedCell) -> str:
    """Write a cell as `**90.41** [88.40, 92.10] n=1000; printed 96.92; -6.51; different setting (n)`."""
    parts = [cell.in_words if cell.measured is None else _measured(cell.measured)]
    parts.append(f"printed {cell.printed.text}" if cell.printed else "not printed")
    parts += [f"{other.text} in {other.paper}" for other in cell.others]
    if cell.difference is not None:
        parts += [f"{cell.difference:+.2f}", cell.in_words]
    if cell.measured is not None:
        parts += cell.measured.flags
    return "; ".join(parts)


def _measured(measured: Measured) -> str:
    interval = "" if measured.low is None else f" [{number(measured.low)}, {number(measured.high)}]"
    seeds = _over_seeds(measured)
    return f"**{number(measured.value)}**{interval} n={measured.n}" + (f", {seeds}" if seeds else "")


def _over_seeds(measured: Measured) -> str:
    values, wanted = measured.over_seeds, measured.trainings
    of = f"{len(values)} of {wanted}" if len(values) < wanted else str(wanted)
    return f"{number(min(values))} to {number(max(values))} over {of} trainings" if values else ""


def _legend(definition: Definition) -> list[str]:
    return [
        "Each cell: what was measured here in bold, with its 95 % Wilson interval where it is a share of images; what",
        "the paper prints; the difference, in points of percentages; the verdict. A number is `reproduced` where the",
        f"printed one lies in the interval or within {definition.tolerance.in_words}{_of_columns(definition)},",
        "and only in the paper's own setting; what is another setting (n, split, recipe, network, eps, protocol) is",
        "named, and the difference is shown all the same. `not measured`: no record of it is here; behind the colon,",
        "why, where the board says it. Of several trainings the first's number is told, with the range.",
    ]


def _of_columns(definition: Definition) -> str:
    own = [column for column in definition.columns if column.tolerance not in (None, definition.tolerance)]
    told = [f"{column.label}: {column.tolerance.in_words}" for column in own if column.tolerance]
    return f" ({'; '.join(told)})" if told else ""


def _settings(definition: Definition, compared: Sequence[Sequence[ComparedCell]], rows: Sequence[Row]) -> list[str]:
    """Write the paper's setting and those of the measured rows, and how many cells have each verdict."""
    paper = definition.paper
    networks = dict.fromkeys(row.paper_arch or paper.arch for row in definition.rows)
    stated = {"network": " or ".join(networks), "recipe": paper.recipe, "threat model": paper.threat, "n": paper.n}
    stated |= {"split": paper.split} if paper.split != "test" else {}
    stated_text = [f"{name} {value}" for name, value in stated.items() if value]
    stated_text += [paper.protocol] * bool(paper.protocol)
    lines = [f"- The paper's setting: {', '.join(stated_text) or 'not stated'}."]
    seen = []
    for row in definition.rows:
        setting = definition.setting(row, definition.columns[0])
        for seed in setting.train_seeds:
            found = measured_row(row, setting, rows, seed)
            if found is None:
                continue
            seen.append(f"{found.dataset}, {found.arch}, recipe {found.recipe}, training seed {found.train_seed}")
    lines += [f"- Measured: {text}." for text in dict.fromkeys(seen)]
    counts = verdict_counts(cell for cells in compared for cell in cells)
    told = [f"{count} {verdict or 'not printed'}" for verdict, count in counts.items()]
    return [*lines, f"- Cells: {', '.join(told)}."]
