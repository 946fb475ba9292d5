"""Runs that contradict each other: who knows less wins, one step beats many, two losses disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.results.audit import thresholds as t
from harness.results.audit.cells import WHITE_BOX, accuracy, crafted_elsewhere, crosses, knows_deployed, points, told
from harness.results.audit.stages import by_gradients, by_square

if TYPE_CHECKING:
    from harness.results.cells import CellResult


def compared(attacks: Sequence[CellResult]) -> dict[str, str]:
    """Collect the flags that come from comparing cells with clean accuracy and with each other."""
    return {**_above_clean(attacks), **_single_step(attacks), **_wins(attacks), **_losses(attacks)}


def _above_clean(attacks: Sequence[CellResult]) -> dict[str, str]:
    """Flag accuracy above clean accuracy under attacks that follow gradients.

    Under noise it may well rise, as noise puts some wrong images right.
    """
    above = [
        f"{cell.attack} {points(cell.raw.count('1'), cell.n):.1f}, clean {points(cell.clean.count('1'), cell.n):.1f}"
        for cell in attacks
        if cell.knowledge in WHITE_BOX
        and points(cell.raw.count("1") - cell.clean.count("1"), cell.n) > t.CLEAN_SLACK
    ]  # fmt: skip
    return {"robust_ge_clean": "; ".join(above)} if above else {}


def _single_step(attacks: Sequence[CellResult]) -> dict[str, str]:
    """Flag one step that is better than all attacks with more, on one network under one threat model.

    Steps that cannot cross the ball from their random start lose to one of its size on honest networks too.
    """
    found = []
    for key in sorted({(cell.threat, cell.on, cell.n) for cell in attacks}):
        here = [cell for cell in attacks if (cell.threat, cell.on, cell.n) == key and cell.backwards]
        single = [cell for cell in here if cell.backwards == cell.n]
        several = [cell for cell in here if cell.backwards > cell.n and crosses(cell)]
        if single and several:
            best, other = min(single, key=accuracy), min(several, key=accuracy)
            if accuracy(best) < accuracy(other) - t.SINGLE_STEP_SLACK:
                found.append(f"{told(best)}, {told(other)}")
    return {"single_step_wins": "; ".join(found)} if found else {}


def _wins(attacks: Sequence[CellResult]) -> dict[str, str]:
    """Flag attacks that know less and break images that all attacks on what is deployed leave standing.

    Against attacks without gradients only those with gradients count; ensembles count as two, the stages that follow
    gradients, and Square. Images are compared that both have.
    """
    blind = [c for c in attacks if c.knowledge == "blackbox" or (knows_deployed(c) and not c.backwards)]
    weaker = [("blackbox_wins", cell.attack, cell.threat, cell.robust) for cell in blind]
    weaker += [("transfer_wins", cell.attack, cell.threat, cell.robust) for cell in attacks if crafted_elsewhere(cell)]
    deployed = [cell for cell in attacks if knows_deployed(cell)]
    weaker += [
        ("blackbox_wins", f"Square in {cell.attack}", cell.threat, bits)
        for cell in deployed
        if (bits := by_square(cell))
    ]
    found: dict[str, tuple[int, str]] = {}
    for flag, who, threat, bits in weaker:
        here = [cell for cell in deployed if cell.threat == threat]
        if flag == "blackbox_wins":
            white = [by_gradients(cell) for cell in here if cell.backwards]
        else:
            white = [cell.robust for cell in here]
        n = min(len(bits), max(map(len, white), default=0))
        standing = ["0" not in column for column in zip(*(one[:n] for one in white if len(one) >= n), strict=True)]
        more = sum(stands and bit == "0" for stands, bit in zip(standing, bits, strict=False))
        if more >= t.IMAGES and points(more, n) > t.STRONGER and more > found.get(flag, (0, ""))[0]:
            found[flag] = (more, f"{who} breaks {more} of {n} images more under {threat}")
    return {flag: evidence for flag, (_, evidence) in found.items()}


def _losses(attacks: Sequence[CellResult]) -> dict[str, str]:
    """Flag runs that differ in nothing but cross-entropy against margin and disagree, at the most steps both have."""
    runs = [c for c in attacks if c.params.get("loss") in ("ce", "margin") and not c.flags.get("as_published")]
    found = []
    for target in sorted({(cell.on, cell.threat) for cell in runs}):
        here = [cell for cell in runs if (cell.on, cell.threat) == target]
        pairs = [both for both in _by_loss(here) if len(both) == 2]
        longest = max(pairs, key=lambda both: _length(both["ce"]), default={})
        low, *_, high = sorted(longest.values(), key=accuracy) or (None, None)
        if low is not None and high is not None and accuracy(high) - accuracy(low) > t.LOSS_GAP:
            found.append(f"{told(low)}, {told(high)}")
    return {"losses_disagree": "; ".join(found)} if found else {}


def _length(cell: CellResult) -> tuple[int, ...]:
    return tuple(cell.number(given) for given in ("steps", "restarts"))


def _by_loss(runs: Sequence[CellResult]) -> list[dict[str, CellResult]]:
    """Group runs that share all but the loss, whatever they are called: loss -> run."""
    found: dict[str, dict[str, CellResult]] = {}
    for cell in runs:
        rest = sorted((key, str(value)) for key, value in cell.params.items() if key != "loss")
        found.setdefault(f"{cell.n} {cell.seed} {rest}", {})[str(cell.params["loss"])] = cell
    return list(found.values())
