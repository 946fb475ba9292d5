"""What papers print: `paper.csv`, one line for each value, kept apart from everything that was measured."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from harness.errors import StoreError

FILE = "paper.csv"
FIELDS = ("paper", "table", "dataset", "architecture", "defense", "attack", "metric", "value", "unit", "note")
PER_CENT = {"fraction": 100.0}
"""Units that are shown in per cent -> what the printed value is multiplied by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrintedValue:
    """One printed value: as text, as it stands in the paper, and as a number in `unit`, `percent` for fractions too.

    `half_step`: half a unit in the last place that is printed, in `unit`: more is lost to rounding nowhere. `arch`: the
    network, in the words of the CSV.
    """

    paper: str
    arch: str
    text: str
    value: float
    half_step: float
    unit: str
    note: str


Key = tuple[str, str, str, str]
"""(dataset, defense, attack, metric), in the words of the CSV."""


def read(board: Path) -> dict[Key, list[PrintedValue]]:
    """Read every printed value under its key, in the order of the file; several where versions of a paper print it.

    Empty where the board has no such file.

    Raises:
        StoreError: for a file whose columns or numbers cannot be read.
    """
    path = board / FILE
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != FIELDS:
            raise StoreError(f"{path}: the columns must be {', '.join(FIELDS)}")
        found: dict[Key, list[PrintedValue]] = {}
        for line, row in enumerate(reader, 2):
            factor = PER_CENT.get(row["unit"], 1.0)
            try:
                value = float(row["value"]) * factor
            except (TypeError, ValueError):
                raise StoreError(f"{path}, line {line}: '{row['value']}' is no number") from None
            key = (row["dataset"], row["defense"], row["attack"], row["metric"])
            unit = "percent" if row["unit"] in PER_CENT else row["unit"]
            found.setdefault(key, []).append(
                PrintedValue(
                    paper=row["paper"],
                    arch=row["architecture"],
                    text=row["value"],
                    value=value,
                    half_step=_half_step(row["value"]) * factor,
                    unit=unit,
                    note=row["note"],
                )
            )
    return found


def _half_step(text: str) -> float:
    """Half a unit in the last place of a number as it is printed: 0.005 of 51.00, 0.5 of 0."""
    exponent = Decimal(text).as_tuple().exponent
    return 0.5 * 10.0**exponent if isinstance(exponent, int) else 0.0
