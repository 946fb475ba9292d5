"""Analyses of rows as a CSV and as a Markdown section: a line for each quantity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from harness.leaderboard.markdown import joined
from harness.results.rows import Row
from harness.storage.schema import ROW_FIELDS

ANALYSIS_COLUMNS = (*ROW_FIELDS, "analysis", "quantity", "value", "unit", "n")


AnalysisLine: TypeAlias = Mapping[str, str | int]
"""One quantity of one analysis: column -> the text or number in it."""


def analysis_lines(rows: Sequence[Row]) -> list[AnalysisLine]:
    """Make a line for each quantity of each analysis; `title` is what tables call its row."""
    return [
        {
            **{name: getattr(row, name) for name in ROW_FIELDS},
            "title": row.title,
            "analysis": analysis, "quantity": name, "unit": quantity.unit, "n": quantity.n,
            "value": "" if quantity.value is None else repr(quantity.value).removesuffix(".0"),
        }
        for row in rows
        for analysis, quantities in sorted(row.analyses.items())
        for name, quantity in quantities.items()
    ]  # fmt: skip


def short(line: AnalysisLine) -> str:
    """Write the value of a line as readers want it: six significant digits; empty where there is none."""
    return f"{float(line['value']):.6g}" if line["value"] else ""


def analyses_csv(rows: Sequence[Row]) -> str:
    """Write the CSV of all analyses; empty where there are none."""
    import pandas as pd

    lines = analysis_lines(rows)
    if not lines:
        return ""
    return str(
        pd.DataFrame(lines, columns=list(ANALYSIS_COLUMNS), dtype=object).to_csv(index=False, lineterminator="\n")
    )


def analyses_markdown(rows: Sequence[Row]) -> list[str]:
    """Write a Markdown section with every analysis; an empty list where there are none."""
    lines = analysis_lines(rows)
    if not lines:
        return []
    shown = ("defense", "arch", "recipe", "train_seed", "analysis", "quantity", "value", "unit", "n")
    header = [joined([name.replace("_", " ").capitalize() for name in shown]), joined(["---"] * len(shown))]
    told: list[AnalysisLine] = [{**line, "defense": line["title"], "value": short(line)} for line in lines]
    body = [joined([str(line[name]) for name in shown]) for line in told]
    return ["\n".join(["## Analyses", "", *header, *body]) + "\n"]
