"""How far numbers move with the training seed and with the attack's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.leaderboard.rows import CellResult, Row


def spread(values: Sequence[float], of: str) -> str:
    """`42.8 to 50.0 over 3 trainings`; empty for a single value."""
    return f"{min(values):.1f} to {max(values):.1f} over {len(values)} {of}" if len(values) > 1 else ""


def training_notes(rows: Sequence[Row], threat: str) -> Iterator[str]:
    """A line for each defense that was trained with several seeds: clean accuracy, and the worst case by knowledge."""
    trained: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        trained.setdefault((row.defense, row.arch, row.recipe), []).append(row)
    for (defense, arch, recipe), together in trained.items():
        told = [f"clean {text}" for text in [_over([row.clean for row in together])] if text]
        for knowledge in ("static", "transfer", "blackbox", "adaptive", ""):
            name = f"worst case, {knowledge}" if knowledge else "worst case"
            text = _over([row.worst(threat, knowledge) for row in together if threat in row.ranked_threats()])
            told += [f"{name} {text}"] if text else []
        if told:
            yield f"{defense} ({arch}, {recipe}): {'; '.join(told)}"


def attack_spread(cells: Sequence[CellResult]) -> str:
    """The range of one cell over the seeds of its attack; empty for a single one."""
    return spread([_share(cell.robust) for cell in cells], "attack seeds")


def _over(bits: Sequence[str]) -> str:
    return spread([_share(found) for found in bits if found], "trainings")


def _share(bits: str) -> float:
    return 100 * bits.count("1") / len(bits)
