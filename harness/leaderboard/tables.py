"""Rows -> a wide Markdown table, the reader's file, and the words in its cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from harness.leaderboard.analyses import analyses_markdown
from harness.leaderboard.markdown import joined
from harness.results import audit
from harness.results.cells import CellResult
from harness.results.naming import data_titles
from harness.results.ranking import in_order, ranks, unranked
from harness.results.readings import KNOWS, knowledge_notes
from harness.results.rows import Row
from harness.results.stats import wilson
from harness.results.trainings import attack_spread, training_notes
from harness.types import CellState

CAPTION = (
    "Per cent of images that are classified correctly and stand against any image the attack reported",
    "(reading `robust`), with the 95 % Wilson interval. Worst case: image by image over the attacks shown. Median: of",
    "the distances from the clean images, for attacks that seek the smallest or have no budget. Rank: 1 + the rows",
    "that are better in an exact McNemar test on common images, with Holm's correction over all pairs at 5 %.",
)
READINGS = tuple(KNOWS)
States = Mapping[tuple[str, str, str], tuple[CellState, str]]
"""(name of the row, attack, threat) -> (state, reason) of cells without a number; no threat where none was chosen."""


def percent(bits: str) -> str:
    """Write the share of ones in per cent, with its 95 % Wilson interval and n: `59.4 [55.0, 63.6] n=500`.

    `no number` where there are no images.
    """
    if not bits:
        return "no number"
    low, high = wilson(bits.count("1"), len(bits))
    return f"{100 * bits.count('1') / len(bits):.1f} [{100 * low:.1f}, {100 * high:.1f}] n={len(bits)}"


def is_partial(row: Row, threat: str, states: States) -> bool:
    """Tell whether a worst case rests on less than it should: an attack without a number, or on fewer images."""
    lost = any((d, t) == (row.name, threat) and s.counts_as_failure for (d, _, t), (s, _) in states.items())
    return lost or len({cell.n for cell in row.cells.values() if cell.threat == threat}) > 1


def has_worst_case(rows: Sequence[Row], threat: str) -> bool:
    """Tell whether a table has a worst case.

    Not for clean accuracy, nor where no budget or no range binds the attacks.
    """
    cells = [cell for row in rows for cell in row.cells.values() if cell.threat == threat]
    return ":" in threat and all(cell.ranked for cell in cells)


def worst_text(row: Row, threat: str, states: States) -> str:
    """Write the worst case as a table shows it: a number, marked where it is partial, or a state."""
    if threat not in row.threats():
        return CellState.FAILED if is_partial(row, threat, states) else CellState.NOT_RUN
    return percent(row.worst(threat)) + (" partial" if is_partial(row, threat, states) else "")


def has_readings(rows: Sequence[Row], threat: str) -> bool:
    """Tell whether worst cases are told apart by what the attacker knew: where that matters for any of the rows."""
    return has_worst_case(rows, threat) and any(
        row.gated or any(cell.on or cell.knowledge == "adaptive" for cell in row.cells.values()) for row in rows
    )


def reading_text(row: Row, threat: str, knowledge: str) -> str:
    """Write the worst case over the attackers who know so much, as a table shows it."""
    if bits := row.worst(threat, knowledge):
        return percent(bits)
    if knowledge != "adaptive":
        return "not run"
    return "no adaptive evaluation" if row.gated else "as static"


def wide(rows: Sequence[Row], states: States | None = None, rank_limited: bool = False) -> str:
    """Write a Markdown table for each threat model, of the rows on the same images: a line a row, a column an attack.

    `rank_limited`: rank rows on fewer images than the split has too.
    """
    states = states or {}
    tables = [
        _section(title, threat, here, _concerning(here, rows, states), rank_limited)
        for title, threat, here in sections(rows, states)
    ]
    return "\n".join([*tables, *analyses_markdown(rows)])


def sections(rows: Sequence[Row], states: States) -> Iterator[tuple[str, str, list[Row]]]:
    """Yield title, threat model and rows of each table, whose rows were all measured on the same images.

    The title tells datasets of one name apart; see `data_titles`. Where only clean accuracy is known the threat model
    is `none`.
    """
    for data, title in sorted(data_titles(rows).items(), key=lambda item: (item[1], item[0])):
        here = [row for row in rows if row.data_sha256 == data]
        threats = {threat for row in here for threat in row.threats()}
        threats |= {threat for _, _, threat in _concerning(here, rows, states) if threat not in ("", "none")}
        for threat in sorted(threats or {"none"}):
            yield title, threat, here


def _concerning(here: Sequence[Row], rows: Sequence[Row], states: States) -> States:
    """Leave the states of other rows out; what is of no row in particular stays."""
    others = {row.name for row in rows} - {row.name for row in here}
    return {key: state for key, state in states.items() if key[0] not in others}


def attack_columns(rows: Sequence[Row], threat: str, states: States) -> list[str]:
    """List the attacks of one threat model, cheapest first, then those without any number."""
    costs: dict[str, float] = {}
    for row in rows:
        for cell in row.cells.values():
            if cell.threat == threat:
                costs[cell.attack] = max(costs.get(cell.attack, 0.0), sum(cell.cost))
    here = {row.name for row in rows}
    stateless = sorted({attack for name, attack, under in states if under == threat and name in here} - costs.keys())
    return sorted(costs, key=lambda attack: (costs[attack], attack)) + stateless


def cell_text(row: Row, attack: str, threat: str, states: States) -> str:
    """Write one cell as a table shows it: the lowest seed's number and the range over all, or its state in words."""
    found = sorted(
        (cell for cell in row.cells.values() if (cell.attack, cell.threat) == (attack, threat)),
        key=lambda cell: cell.seed,
    )
    state = states.get((row.name, attack, threat), (CellState.NOT_RUN, ""))[0]
    return _number(found) if found and state is CellState.NOT_RUN else state


def _number(cells: Sequence[CellResult]) -> str:
    first, over_seeds = cells[0], attack_spread(cells)
    far = first.median_distance
    drawn = f" passes={first.votes}" if first.votes > 1 else ""
    told = percent(first.robust) + (f" median {far:.3g}" if far is not None else "") + drawn
    return f"{told}, {over_seeds}" if over_seeds else told


def flag_notes(rows: Sequence[Row], states: States | None = None) -> list[str]:
    """Write one line for each flag: whose, which, the evidence, what it means.

    Rows with the same evidence share a line.
    """
    whose: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, evidence in flags_of(row, states or {}).items():
            whose.setdefault((name, evidence), []).append(row.name)
    notes = [
        (", ".join(names), f"{name} ({evidence}) - {audit.MEANING[name]}") for (name, evidence), names in whose.items()
    ]
    return [f"{names}: {note}" for names, note in sorted(notes, key=lambda told: told[0])]


def flags_of(row: Row, states: States) -> dict[str, str]:
    """Collect the flags of a row: name -> evidence."""
    return audit.flags(row, refused_attacks(row, states))


def refused_attacks(row: Row, states: States) -> list[str]:
    """List the attacks on a row whose images the harness did not accept."""
    wanted = (row.name, CellState.REFUSED)
    return sorted({attack for (name, attack, _), (state, _) in states.items() if (name, state) == wanted})


def _section(title: str, threat: str, rows: Sequence[Row], states: States, rank_limited: bool) -> str:
    attacks = attack_columns(rows, threat, states) if threat != "none" else []
    worst = [f"Worst case ({threat})"] if has_worst_case(rows, threat) else []
    readings = READINGS if has_readings(rows, threat) else ()
    named = [f"Worst case, {reading}" for reading in readings]
    ranked = ranks(rows, threat, rank_limited) if worst else []
    order = in_order(rows, ranked) if worst else range(len(rows))
    header = [*(["Rank"] if worst else []), "Defense", "Network", "Recipe", "Clean", *named, *worst, *attacks, "Flags"]
    lines = [f"## {title}, {threat}", "", joined(header), joined(["---"] * len(header))]
    for i in order:
        row, place = rows[i], [str(ranked[i] or unranked(rows[i], rows))] if worst else []
        cells = [cell_text(row, attack, threat, states) for attack in attacks]
        headline = [reading_text(row, threat, reading) for reading in readings]
        headline += [f"**{worst_text(row, threat, states)}**"] if worst else []
        names = ", ".join(flags_of(row, states)) or "none"
        recipe = f"{row.recipe}, seed {row.train_seed}" if row.train_seed else row.recipe
        lines.append(joined([*place, row.title, row.arch, recipe, percent(row.clean), *headline, *cells, names]))
    lines += ["", *CAPTION, ""]
    notes = [f"{row.name}: the same network as {', '.join(row.also)}" for row in rows if row.also]
    notes += [*training_notes(rows, threat), *knowledge_notes(rows, threat), *flag_notes(rows, states)]
    lines += [f"- {note}" for note in notes]
    reasons = sorted({f"{a} on {d}: {state}, {why}" for (d, a, t), (state, why) in states.items() if t in (threat, "")})
    lines += [f"- {reason}" for reason in reasons]
    return "\n".join(lines).rstrip() + "\n"
