"""The settings of the papers, as `tests/leaderboards/settings.csv` states them, against those that are planned.

A line is about the cells that match its board, dataset, row and column, which may be globs; of several lines the last
counts. `not stated`: no source has it, and the board names it among `ours`; behind a colon, what it reads there.
"""

import csv
import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from harness.types import format_budget, parse_number
from support.planned import TEST_IMAGES, Place, Planned

TABLE = Path(__file__).parents[1] / "leaderboards" / "settings.csv"
FIELDS = ("board", "dataset", "row", "column", "setting", "value", "source")
NOT_STATED = "not stated"
WRITTEN = ("attack.step", "attack.kappa")
"""What a protocol writes out, where no source states it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table."""

    board: str
    dataset: str
    row: str
    column: str
    setting: str
    value: str
    source: str


def read_table(path: Path = TABLE) -> list[Line]:
    """Read the table, in its order."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames or ()) == FIELDS
        return [Line(**line) for line in reader]


def counting(place: Place, lines: Sequence[Line]) -> dict[str, int]:
    """Find the lines that count at a place: setting -> number of its line."""
    names = ("board", "dataset", "row", "column")
    return {
        line.setting: i
        for i, line in enumerate(lines)
        if all(fnmatch.fnmatchcase(getattr(place, name), getattr(line, name)) for name in names)
    }


def stated(place: Place, lines: Sequence[Line]) -> dict[str, str]:
    """Find what the table says of a place: setting -> value."""
    return {setting: lines[i].value for setting, i in counting(place, lines).items()}


def states(place: Place, lines: Sequence[Line], setting: str) -> bool:
    """Tell whether a source states a setting."""
    return not stated(place, lines).get(setting, NOT_STATED).startswith(NOT_STATED)


def same(planned: object, value: str) -> bool:
    """Tell whether a planned value is the table's: texts as globs; numbers by value, so that 0.031 is not 8/255."""
    number = parse_number(value)
    if number is None or isinstance(planned, (str, bool)):
        return fnmatch.fnmatchcase(str(planned), value)
    return planned is not None and Fraction(str(planned)) == number


def differences(planned: Planned, lines: Sequence[Line]) -> Iterator[str]:
    """Tell where a cell is planned in another setting than the table's, or the board says another thing of it."""
    if planned.error:
        yield f"{planned.place}: {planned.error}"
        return
    table = stated(planned.place, lines)
    expected = {name: value.removeprefix(f"{NOT_STATED}: ") for name, value in table.items()}
    yield from (f"{planned.place}: no line for {name}" for name in sorted(planned.required - set(expected)))
    for name, value in expected.items():
        unperturbed = name.startswith("attack.") and planned.own.get("attack", "clean") == "clean"
        if value == NOT_STATED or name in ("split", "n") or unperturbed:
            continue
        if name not in planned.own:
            yield f"{planned.place}: {name} is {value} in the sources, and there is no such setting here"
        elif not same(planned.own[name], value):
            yield f"{planned.place}: {name} is {value} in the sources, {_text(planned.own[name])} is planned"
    yield from (f"{planned.place}: no line for {name}" for name in sorted(planned.free - set(expected)))
    yield from (
        f"{planned.place}: no source states {name}, and {_text(planned.own[name])} is not the plugin's own value"
        for name in sorted(planned.free)
        if name.startswith("defense.") and expected.get(name) == NOT_STATED
    )
    if planned.own.get("printed.dataset", planned.place.dataset) != planned.place.dataset:
        yield f"{planned.place}: beside what is printed of {planned.own['printed.dataset']}"
    yield from _deviations(planned, expected)
    yield from _protocol(planned, table)
    yield from _images(planned, expected)


def _deviations(planned: Planned, expected: Mapping[str, str]) -> Iterator[str]:
    """Tell where a cell is measured in another setting and the board does not say so, or the other way round."""
    for word, name in (("recipe", "recipe"), ("network", "network"), ("eps", "attack.eps")):
        value = expected.get(name, NOT_STATED)
        if value == NOT_STATED or name not in planned.own or not same(planned.own[name], value):
            continue
        other = not same(planned.measured[name], value)
        if other != (word in planned.reasons):
            said = "no difference" if other else "a difference"
            yield f"{planned.place}: the board has {said} in {word}, measured with {_text(planned.measured[name])}"


def _protocol(planned: Planned, table: Mapping[str, str]) -> Iterator[str]:
    """Tell where no source states the attack, and the board does not say in its protocol what stands for it."""
    names = ("attack", "attack.step", "attack.kappa", "analysis.attack")
    unstated = [name for name in names if table.get(name, "").startswith(NOT_STATED) and name in planned.own]
    if not unstated or "protocol" not in planned.own or planned.own.get("attack") == "clean":
        return
    if "protocol" not in planned.reasons:
        yield f"{planned.place}: no source states {', '.join(unstated)}, and the board has no protocol"
    for name in unstated:
        word = name.removeprefix("attack.")
        said = re.findall(rf"\b{word} ([\d./]+)", str(planned.own["protocol"]))
        if name in WRITTEN and not (said and all(same(planned.own[name], number.rstrip(".")) for number in said)):
            yield f"{planned.place}: {name} is {_text(planned.own[name])}, and the protocol says {said}"


def _images(planned: Planned, expected: Mapping[str, str]) -> Iterator[str]:
    """Tell where the board has other images than the sources, or hides that it measures on others."""
    n, split = (expected.get(name, NOT_STATED) for name in ("n", "split"))
    if n not in (NOT_STATED, str(planned.n)):
        yield f"{planned.place}: n is {n} in the sources, {planned.n} on the board"
    elif n != NOT_STATED and (planned.n != TEST_IMAGES[planned.place.dataset]) != ("n" in planned.reasons):
        yield f"{planned.place}: n is {n} in the sources, and the board's reasons are {planned.reasons}"
    words = {"split"} if split == "test" else {"split", "protocol"}
    if split != NOT_STATED and (split != "test") != bool(words & set(planned.reasons)):
        yield f"{planned.place}: the sources' images are {split}, and the board's reasons are {planned.reasons}"


def silent(planned: Iterable[Planned], lines: Sequence[Line]) -> set[str]:
    """List the settings of some cells that no source states."""
    return {
        name
        for one in planned
        for name, value in stated(one.place, lines).items()
        if value.startswith(NOT_STATED) and (one.error or name in one.required or name in one.own)
    }


def _text(planned: object) -> str:
    return format_budget(planned) if isinstance(planned, Fraction) else str(planned)
