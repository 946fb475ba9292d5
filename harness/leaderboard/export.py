"""A board in the formats of others: LaTeX for papers, and the model_info of RobustBench."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from harness.errors import NothingSelected
from harness.leaderboard.comparison import NOT_MEASURED, compare
from harness.leaderboard.definition import Definition
from harness.leaderboard.paper_table import number
from harness.leaderboard.printed import Key, PrintedValue
from harness.leaderboard.tables import attack_columns, cell_text, has_worst_case, percent, sections, worst_text
from harness.results.rows import Row

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
    """Write a LaTeX tabular for each dataset and threat model; accuracies in per cent."""
    found = []
    for dataset, threat, here in sections(rows, {}):
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
        found.append(_tabular(f"{dataset}, {threat}", header, body))
    return "\n".join(found)


def robustbench_json(rows: Sequence[Row]) -> str:
    """Write a model_info for each row that has clean accuracy and AutoAttack, under `dataset/threat/defense`.

    Accuracies are in per cent. Of several trainings of one defense the one with the lowest seed is taken.

    Raises:
        NothingSelected: where no row has both.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: -row.train_seed):
        for (attack, threat, seed), cell in row.cells.items():
            if attack == AUTOATTACK and seed == 0 and row.clean:
                found[f"{row.dataset}/{threat}/{row.defense}"] = {
                    "link": "", "name": row.defense, "authors": "", "additional_data": False,
                    "number_forward_passes": cell.votes, "dataset": row.dataset, "venue": "",
                    "architecture": row.arch, "eps": _eps(threat), "clean_acc": _share(row.clean),
                    "autoattack_acc": _share(cell.robust), "reported": "", "unreliable": row.gated, "footnote":
                    f"measured by adversarial-harness on {cell.n} images, weights sha256 {row.weights_sha256}",
                }  # fmt: skip
    if not found:
        raise NothingSelected(f"no row has {AUTOATTACK}: RobustBench lists nothing else")
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


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
