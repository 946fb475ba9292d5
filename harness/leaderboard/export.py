"""A board in the formats of others: LaTeX for papers, and the model_info of RobustBench."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from harness.errors import NothingSelected
from harness.leaderboard.comparison import NOT_MEASURED, compare
from harness.leaderboard.definition import Definition
from harness.leaderboard.paper_table import number
from harness.leaderboard.printed import Key, PrintedValue
from harness.leaderboard.tables import attack_columns, cell_text, has_worst_case, percent, sections, worst_text
from harness.results.cells import CellResult
from harness.results.naming import data_titles
from harness.results.rows import Row
from harness.results.trainings import trainings

SPECIAL = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
AUTOATTACK = "aa_standard"


def paper_latex(definition: Definition, printed: dict[Key, list[PrintedValue]], rows: Sequence[Row]) -> str:
    """Write a paper's table, measured (printed), as a LaTeX tabular that needs the package booktabs."""
    body = []
    for cells in compare(definition, printed, rows):
        texts = [number(cell.measured.value) if cell.measured else NOT_MEASURED for cell in cells]
        told = [f" ({cell.printed.text})" if cell.printed else "" for cell in cells]
        body.append([cells[0].row.label, *(text + beside for text, beside in zip(texts, told, strict=True))])
    return _tabular(definition.title, ["", *(column.label for column in definition.columns)], body)


def ranked_latex(rows: Sequence[Row]) -> str:
    """Write a LaTeX tabular for the rows on the same images, and each threat model; accuracies in per cent."""
    found = []
    for title, threat, here in sections(rows, {}):
        attacks = attack_columns(here, threat, {}) if threat != "none" else []
        worst = has_worst_case(here, threat)
        body = [
            [
                row.name, row.arch, percent(row.clean), *([worst_text(row, threat, {})] if worst else []),
                *(cell_text(row, attack, threat, {}) for attack in attacks),
            ]
            for row in here
        ]  # fmt: skip
        header = ["Defense", "Network", "Clean", *(["Worst case"] if worst else []), *attacks]
        found.append(_tabular(f"{title}, {threat}", header, body))
    return "\n".join(found)


def robustbench_json(rows: Sequence[Row]) -> str:
    """Write a model_info for each row with AutoAttack, under `dataset/threat/defense/network/recipe`.

    Accuracies are in per cent, both on the images that AutoAttack had. Of several trainings of one defense the one with
    the lowest seed is taken, and of several seeds of the attack the lowest. Networks that share all of that have the
    start of their weights' sha256 behind it.

    Raises:
        NothingSelected: where no row has AutoAttack.
    """
    found: dict[str, dict[str, Any]] = {}
    titles = data_titles(rows)
    alike = Counter(_shown(together[0]) for together in trainings(rows))
    for together in trainings(rows):
        taken: dict[str, tuple[Row, CellResult]] = {}
        for row in together:
            cells = [cell for cell in row.cells.values() if cell.attack == AUTOATTACK]
            for cell in sorted(cells, key=lambda cell: cell.seed):
                taken.setdefault(cell.threat, (row, cell))
        for threat, (row, cell) in taken.items():
            key = f"{titles[row.data_sha256]}/{threat}/{row.defense}/{row.arch}/{row.recipe}"
            found[f"{key}/{row.weights_sha256[:12]}" if alike[_shown(row)] > 1 else key] = {
                "link": "", "name": row.title, "authors": "", "additional_data": False,
                "number_forward_passes": cell.votes, "dataset": row.dataset, "venue": "",
                "architecture": row.arch, "eps": _eps(threat), "clean_acc": _share(cell.clean),
                "autoattack_acc": _share(cell.robust), "reported": "", "unreliable": row.gated, "footnote":
                f"measured by adversarial-harness on {cell.n} images, weights sha256 {row.weights_sha256}",
            }  # fmt: skip
    if not found:
        raise NothingSelected(f"no row has {AUTOATTACK}: RobustBench lists nothing else")
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def _shown(row: Row) -> tuple[str, ...]:
    return row.data_sha256, row.defense, row.arch, row.recipe


def _tabular(title: str, header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [f"% {title}", rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule"]
    lines += [_line(header), r"\midrule", *(_line(cells) for cells in body), r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return " & ".join("".join(SPECIAL.get(sign, sign) for sign in cell) for cell in cells) + r" \\"


def _eps(threat: str) -> str:
    """Write a budget as RobustBench does: a fraction of 255, or a decimal number."""
    budget = threat.partition(":")[2]
    return budget if "/" not in budget or budget.endswith("/255") else str(float(Fraction(budget)))


def _share(bits: str) -> str:
    return f"{100 * bits.count('1') / len(bits):.2f}"
