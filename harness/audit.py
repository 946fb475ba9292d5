"""Red flags: what the records themselves say against a number, with the evidence. Thresholds are here and only here.

Accuracies are in points (per cent). Flags never change a number.
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.leaderboard.rows import CellResult, Row

CLEAN_SLACK = 0.1
SINGLE_STEP_SLACK = 0.5
MONOTONE_SLACK = 0.1
MONOTONE_IMAGES = 2
LOGIT_NOISE = 1e-4
PROBABILITIES = 0.0
ZERO_GRADIENT_CE = 0.01
ZERO_GRADIENT_MARGIN = 0.0
GRADIENT_CALLS = 0.0
STRONGER_SLACK = 0.2
STRONGER_IMAGES = 2
LOSS_GAP = 3.0

MEANING = {
    "as_published": "the attack is reproduced with the defects of its publication; compare it with that table only",
    "blackbox_wins": "an attack without gradients breaks what no attack with gradients breaks: they mislead",
    "dynamic": "the network asks for gradients while it predicts; attacks may not see through that",
    "false_claims": "the attack reported broken images that the harness judges correct",
    "losses_disagree": "the same attack with another loss gives another answer: one of the gradients is masked",
    "limited": "fewer images than the split has; not ranked",
    "out_of_range": "images outside [0, 1], as the reproduced publication scored them",
    "probability_outputs": "the model answers probabilities or their logarithms, on which margin losses go flat",
    "no_adaptive": "its prediction hides a choice from gradients, and no attack that knows of it was run",
    "not_monotone_steps": "more steps of the same attack leave more images standing at its last iterate",
    "robust_ge_clean": "accuracy under attack is above clean accuracy",
    "single_step_wins": "a one-step attack beats every iterated one",
    "stochastic": "two passes over the same images give different logits",
    "transfer_wins": "an attack crafted on another network breaks what no attack on this one breaks: gradients mislead",
    "under_reach": "steps times step is smaller than eps: the ball cannot be crossed",
    "weak_protocol": "attacks that this defense is known to need were not run",
    "zero_gradients": "images without any gradient: attacks that follow it are blind there",
}


def flags(row: Row) -> dict[str, str]:
    """Name -> evidence of every flag that a row raises."""
    found: dict[str, str] = {}
    cells = list(row.cells.values())
    counted = {name: sum(cell.flags.get(name, 0) for cell in cells) for name in ("false_claims", "out_of_range")}
    found.update({name: f"{count:g} images" for name, count in counted.items() if count})
    if published := [cell.attack for cell in cells if cell.flags.get("as_published")]:
        found["as_published"] = ", ".join(published)
    found.update(_probed(cells))
    if short := min((cell for cell in cells if cell.n < cell.split_size), key=lambda cell: cell.n, default=None):
        found["limited"] = f"{short.n} of {short.split_size} images"
    attacks = [cell for cell in cells if cell.threat != "none"]
    # Noise may well put a wrong image right: only who follows gradients should do better than that.
    above = [
        cell for cell in attacks
        if cell.knowledge == "static" and _points(cell.raw.count("1") - cell.clean.count("1"), cell.n) > CLEAN_SLACK
    ]  # fmt: skip
    if above:
        found["robust_ge_clean"] = ", ".join(cell.attack for cell in above)
    found.update(_single_step(attacks))
    found.update(_wins(attacks))
    found.update(_losses(attacks))
    found.update(_monotone(attacks))
    if reach := [cell.attack for cell in attacks if _under_reach(cell)]:
        found["under_reach"] = ", ".join(reach)
    if row.gated and not any(cell.knowledge == "adaptive" for cell in attacks):
        found["no_adaptive"] = "no adaptive evaluation"
    if missing := [name for name in row.mandatory if name not in {cell.attack for cell in cells}]:
        found["weak_protocol"] = f"not run: {', '.join(missing)}"
    return dict(sorted(found.items()))


def _probed(cells: list[CellResult]) -> dict[str, str]:
    """What was measured of the network before any attack."""
    seen = {name: value for cell in cells for name, value in cell.probes.items()}
    found = {}
    if any(cell.flags.get("stochastic") for cell in cells) or seen.get("logit_noise", 0) > LOGIT_NOISE:
        found["stochastic"] = f"logits differ by {100 * seen.get('logit_noise', 0):.2g} % between two passes"
    ce, by_margin = seen.get("zero_gradient_ce", 0.0), seen.get("zero_gradient_margin", 0.0)
    if ce > ZERO_GRADIENT_CE or by_margin > ZERO_GRADIENT_MARGIN:
        found["zero_gradients"] = (
            f"{100 * ce:.0f} % of images under cross-entropy, {100 * by_margin:.0f} % under margin"
        )
    if seen.get("probabilities", 0) > PROBABILITIES:
        found["probability_outputs"] = f"{100 * seen['probabilities']:.0f} % of images"
    if seen.get("gradient_calls", 0) > GRADIENT_CALLS:
        found["dynamic"] = f"{seen['gradient_calls']:g} calls in a prediction"
    return found


def _wins(attacks: list[CellResult]) -> dict[str, str]:
    """Whether an attack that knows less breaks images that all attacks with the model's gradients leave standing."""
    found = {}
    for knowledge, name in (("blackbox", "blackbox_wins"), ("transfer", "transfer_wins")):
        for weaker in (cell for cell in attacks if cell.knowledge == knowledge):
            white = [c for c in attacks if (c.threat, c.n, c.knowledge) == (weaker.threat, weaker.n, "static")]
            if not white:
                continue
            standing = [all(c.robust[i] == "1" for c in white) for i in range(weaker.n)]
            more = sum(stands and weaker.robust[i] == "0" for i, stands in enumerate(standing))
            if more >= STRONGER_IMAGES and _points(more, weaker.n) > STRONGER_SLACK:
                found[name] = f"{weaker.attack} breaks {more} of {weaker.n} images more under {weaker.threat}"
    return found


def _losses(attacks: list[CellResult]) -> dict[str, str]:
    """Whether runs that differ in nothing but cross-entropy against margin disagree, at the most steps both have."""
    runs: dict[str, dict[str, CellResult]] = {}
    for cell in attacks:
        if cell.params.get("loss") in ("ce", "margin") and not cell.flags.get("as_published"):
            rest = sorted((key, str(value)) for key, value in cell.params.items() if key != "loss")
            runs.setdefault(f"{cell.threat} {cell.n} {rest}", {})[cell.params["loss"]] = cell
    pairs = [both for both in runs.values() if len(both) == 2]
    longest = max(pairs, key=lambda both: int(both["ce"].params.get("steps", 0)), default={})
    low, *_, high = sorted(longest.values(), key=_accuracy) or (None, None)
    if low is None or high is None or _accuracy(high) - _accuracy(low) <= LOSS_GAP:
        return {}
    return {"losses_disagree": f"{low.attack} {_accuracy(low):.1f}, {high.attack} {_accuracy(high):.1f}"}


def _single_step(attacks: list[CellResult]) -> dict[str, str]:
    for threat in sorted({cell.threat for cell in attacks}):
        here = [cell for cell in attacks if cell.threat == threat and cell.backwards]
        single = [cell for cell in here if cell.backwards == cell.n]
        several = [cell for cell in here if cell.backwards > cell.n]
        if single and several:
            best, other = min(single, key=_accuracy), min(several, key=_accuracy)
            if _accuracy(best) < _accuracy(other) - SINGLE_STEP_SLACK:
                return {
                    "single_step_wins": f"{best.attack} {_accuracy(best):.1f}, {other.attack} {_accuracy(other):.1f}"
                }
    return {}


def _monotone(attacks: list[CellResult]) -> dict[str, str]:
    families: dict[str, list[CellResult]] = {}
    for cell in attacks:
        if isinstance(cell.params.get("steps"), int):
            rest = sorted((key, value) for key, value in cell.params.items() if key != "steps")
            families.setdefault(f"{cell.attack.partition('-')[0]} {cell.threat} {rest}", []).append(cell)
    for family in families.values():
        ordered = sorted(family, key=lambda cell: int(cell.params["steps"]))
        for fewer, more in itertools.pairwise(ordered):
            rise = fewer.last.count("1") - more.last.count("1")
            if fewer.n == more.n and rise >= MONOTONE_IMAGES and _points(rise, more.n) > MONOTONE_SLACK:
                return {"not_monotone_steps": f"{more.attack} leaves {rise} more images standing than {fewer.attack}"}
    return {}


def _under_reach(cell: CellResult) -> bool:
    steps, step, eps = cell.params.get("steps"), cell.params.get("step"), cell.threat.partition(":")[2]
    if not isinstance(steps, int) or not step or not eps:
        return False
    return steps > 1 and steps * Fraction(str(step)) < Fraction(eps)


def _accuracy(cell: CellResult) -> float:
    return _points(cell.robust.count("1"), cell.n)


def _points(count: int, n: int) -> float:
    return 100 * count / n
