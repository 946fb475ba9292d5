"""Rows -> a tidy table, the machine's file: a line for each cell and each worst case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.leaderboard.tables import READINGS, States, flags_of, has_readings, is_partial, reading_text
from harness.registry.names import format_value
from harness.results.cells import CellResult
from harness.results.ranking import placed, unranked
from harness.results.rows import Row
from harness.results.stats import wilson
from harness.storage.schema import ROW_FIELDS
from harness.types import CellState

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "dataset", "defense", "arch", "recipe", "train_seed", "threat", "attack", "params", "knowledge", "passes", "seed",
    "state", "rank", "n", "split_size", "clean", "robust", "robust_low", "robust_high", "last", "raw",
    "median_distance", "forwards", "backwards", "flags", "attack_revision", "weights_sha256", "data_sha256",
    "records", "reason",
)  # fmt: skip


def tidy(rows: Sequence[Row], states: States | None = None, rank_limited: bool = False) -> str:
    """Write the CSV: for each row its cells and worst cases, a line each, then the cells without a number.

    Accuracies are in per cent, costs in forward and backward passes for each image.
    """
    return str(tidy_frame(rows, states, rank_limited).to_csv(index=False, lineterminator="\n"))


def tidy_frame(rows: Sequence[Row], states: States | None = None, rank_limited: bool = False) -> pd.DataFrame:
    """Make the table of `tidy` as a frame whose cells are the text of the CSV."""
    import pandas as pd

    states = states or {}
    lines: list[dict[str, object]] = []
    places = placed(rows, rank_limited)
    for number, row in enumerate(rows):
        flags = flags_of(row, states)
        subject = {name: getattr(row, name) for name in ROW_FIELDS}
        lines += [{**subject, **_line(cell)} for cell in row.cells.values()]
        for threat in row.ranked_threats():
            bits = row.worst(threat)
            note = "; ".join(f"{name}: {evidence}" for name, evidence in flags.items())
            state = CellState.PARTIAL if is_partial(row, threat, states) else CellState.DONE
            shared = {"threat": threat, "attack": "worst case", "state": state}
            for knowledge in READINGS if has_readings([row], threat) else ():
                if part := row.worst(threat, knowledge):
                    told = {"knowledge": knowledge, "clean": _share(row.clean[: len(part)])}
                    lines.append({**subject, **shared, **told, **_accuracy(part)})
                elif row.gated and knowledge == "adaptive":
                    told = {"knowledge": knowledge, "state": reading_text(row, threat, knowledge)}
                    lines.append({**subject, **shared, **told})
            rank = places.get((number, threat))
            whole = {"clean": _share(row.clean[: len(bits)]), "flags": note, "rank": rank or unranked(row, rows)}
            lines.append({**subject, **shared, **whole, **_accuracy(bits)})
    named = {row.name: {name: getattr(row, name) for name in ROW_FIELDS} for row in rows}
    for (name, attack, threat), (state, reason) in sorted(states.items()):
        subject = named.get(name, {"defense": name})
        lines.append({**subject, "attack": attack, "threat": threat, "state": state, "reason": reason})
    return pd.DataFrame(lines, columns=list(COLUMNS), dtype=object)


def _line(cell: CellResult) -> dict[str, object]:
    return {
        "threat": cell.threat,
        "attack": cell.attack,
        "params": " ".join(f"{key}={format_value(value)}" for key, value in sorted(cell.params.items())),
        "knowledge": cell.knowledge,
        "passes": cell.votes,
        "seed": cell.seed,
        "state": CellState.DONE,
        "split_size": cell.split_size,
        "clean": _share(cell.clean),
        "last": _share(cell.robust_last),
        "raw": _share(cell.raw),
        "median_distance": "" if cell.median_distance is None else f"{cell.median_distance:.6g}",
        "forwards": f"{cell.cost[0]:g}",
        "backwards": f"{cell.cost[1]:g}",
        "flags": " ".join(f"{name}={value:g}" for name, value in sorted(cell.flags.items())),
        "attack_revision": cell.attack_revision,
        "records": cell.records,
        **_accuracy(cell.robust),
    }


def _accuracy(bits: str) -> dict[str, object]:
    low, high = wilson(bits.count("1"), len(bits))
    return {
        "n": len(bits),
        "robust": _share(bits),
        "robust_low": f"{100 * low:.2f}",
        "robust_high": f"{100 * high:.2f}",
    }


def _share(bits: str) -> str:
    return f"{100 * bits.count('1') / len(bits):.2f}"
