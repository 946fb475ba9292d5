"""The settings of the papers, as `tests/leaderboards/settings.csv` states them, against those that are planned.

A line is about the cells that match its board, dataset, row and column, which may be globs; of several lines the last
counts. `not stated`: no source has it, and the board names it among `ours`.
"""

import csv
import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.errors import NothingSelected, UsageError
from harness.leaderboard.comparison import compare, threat_of
from harness.leaderboard.definition import ColumnDefinition, Definition, RowDefinition, Setting
from harness.leaderboard.missing import requests
from harness.leaderboard.printed import Key, PrintedValue
from harness.planning.plan import plan
from harness.planning.request import Request
from harness.registry.names import parse_name
from harness.registry.registry import Registry
from harness.results.cells import CellResult
from harness.results.rows import Row
from harness.training.checkpoints import budget
from harness.types import Attack, Cell, Subject, format_budget, parse_number

TABLE = Path(__file__).parents[1] / "leaderboards" / "settings.csv"
FIELDS = ("board", "dataset", "row", "column", "setting", "value", "source")
NOT_STATED = "not stated"
TEST_IMAGES = {"mnist": 10000, "svhn": 26032, "cifar10": 10000, "cifar100": 10000, "tiny-imagenet": 10000}
"""How many test images each dataset has; of Tiny-ImageNet those of its validation folder, which have labels."""

TRAINING = ("recipe", "network", "optimizer", "lr", "weight_decay", "schedule", "epochs", "batch", "augment")
INNER = ("inner.eps", "inner.steps", "inner.step", "inner.start", "inner.mode")
NO_INNER = {"raw", "raw_gd", "simple_structure"}
"""Defenses that train on no examples of an inner attack."""
WEIGHTS = {
    "pgd_at": ("mix",), "alp": ("weight",), "trades": ("beta",), "mart": ("beta",), "aalp_gd": ("alpha",),
    "aalp": ("alpha",), "aalp_sw": ("alpha",), "aalp[version=1]": ("alpha", "beta"),
    "aalp_sw[version=1]": ("alpha", "beta"), "ancra": ("beta", "auxiliary", "zeta", "alpha"),
    "ancra[variant=pgd]": ("auxiliary", "zeta", "alpha"),
    "ancra[variant=mart]": ("mart_beta", "auxiliary", "zeta", "alpha"), "simple_structure": ("a", "b"),
}  # fmt: skip
"""The weights in each defense's loss, by its id or else by its name."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a setting holds: what lines of the table are matched with."""

    board: str
    dataset: str
    row: str
    column: str

    def __str__(self) -> str:
        return f"{self.board} ({self.dataset}), {self.row}, {self.column}"


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
    return stated(place, lines).get(setting, NOT_STATED) != NOT_STATED


def same(planned: object, value: str) -> bool:
    """Tell whether a planned value is the one of the table: numbers by value, so that 0.031 is not 8/255."""
    number = parse_number(value)
    if number is None or isinstance(planned, (str, bool)):
        return str(planned) == value
    return planned is not None and Fraction(str(planned)) == number


def _text(planned: object) -> str:
    return format_budget(planned) if isinstance(planned, Fraction) else str(planned)


def settings_of(subject: Subject, dataset: Any) -> dict[str, object]:
    """Write out how a subject is trained and deployed, by the names of the table."""
    found: dict[str, object] = {"network": subject.arch}
    found |= {f"defense.{name}": value for name, value in subject.defense_params.items()}
    recipe = subject.recipe
    if recipe is not None:
        names = ("optimizer", "lr", "momentum", "weight_decay", "schedule", "decay", "epochs", "batch", "augment")
        found |= {"recipe": recipe.name, **{name: getattr(recipe, name) for name in (*names, "selection")}}
        found["milestones"] = " ".join(map(str, recipe.milestones))
        eps, step = budget(recipe, SimpleNamespace(spec=dataset, name=dataset.name))
        inner = recipe.inner
        found |= {"inner.eps": eps, "inner.step": step, "inner.steps": inner.steps}
        found |= {"inner.start": inner.start, "inner.mode": inner.mode}
    return found


def settings_of_attack(cell: Cell) -> dict[str, object]:
    """Write out an attack, by the names of the table."""
    found: dict[str, object] = {f"attack.{name}": value for name, value in cell.params.items()}
    found |= {"attack": parse_name(cell.attack)[0]}
    found |= {"attack.eps": cell.threat.eps} if cell.threat.eps is not None else {}
    if {"low", "high"} <= set(cell.params):
        found["attack.width"] = int(str(cell.params["high"])) - int(str(cell.params["low"])) + 1
    return found


def required_of(subject: Subject, found: Mapping[str, object]) -> set[str]:
    """List the settings that the table must speak about, for the training of a subject."""
    name = parse_name(subject.defense)[0]
    weights = WEIGHTS.get(subject.defense, WEIGHTS.get(name, ()))
    wanted = {*TRAINING, *(f"defense.{weight}" for weight in weights)}
    wanted |= {"momentum"} if found.get("optimizer") == "sgd" else set()
    wanted |= {"milestones", "decay"} if found.get("schedule") == "steps" else set()
    return wanted | (set(INNER) if name not in NO_INNER else set())


def required_of_attack(cell: Cell) -> set[str]:
    """List the settings that the table must speak about, for an attack."""
    if cell.attack == "clean":
        return set()
    wanted = {"attack"}
    wanted |= {"attack.eps"} if cell.threat.eps is not None else set()
    composed = cell.attack.startswith("aa_")
    return wanted | {f"attack.{name}" for name in ("steps", "step") if name in cell.params and not composed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One cell of a board, as it is measured, and as it would be in the paper's own setting where that is another.

    `reasons`: in which respects the board says that its setting differs. `error`: why it cannot be planned.
    """

    place: Place
    measured: Mapping[str, object]
    own: Mapping[str, object]
    required: frozenset[str]
    n: int | None
    reasons: tuple[str, ...] = ()
    error: str = ""


def cells(definition: Definition, printed: Mapping[Key, Sequence[PrintedValue]], registry: Registry) -> list[Planned]:
    """Plan every printed cell of a paper's board that something here measures."""
    found = []
    for row in definition.rows:
        for column in definition.columns:
            filled = definition.column(row, column)
            if row.defense and row.printed and filled.printed and (filled.attack or filled.analysis):
                found.append(_planned(definition, row, column, printed, registry))
    return found


def _planned(
    definition: Definition, row: RowDefinition, column: ColumnDefinition,
    printed: Mapping[Key, Sequence[PrintedValue]], registry: Registry,
) -> Planned:  # fmt: skip
    setting, paper = definition.setting(row, column), definition.paper
    place = Place(board=definition.name, dataset=setting.dataset, row=row.label, column=column.label)
    try:
        measured, required = _plan(definition, row, column, registry)
        changes = {"arch": row.paper_arch or paper.arch or setting.arch, "recipe": paper.recipe or setting.recipe}
        in_paper = replace(row, settings={**row.settings, **changes})
        own = _plan(definition, in_paper, column, registry)[0] if changes != _names(setting) else measured
    except (UsageError, NothingSelected) as error:
        return Planned(place=place, measured={}, own={}, required=frozenset(), n=None, error=str(error))
    alone = replace(definition, rows=(row,), columns=(column,))
    compared = next(compare(alone, printed, [_row(measured, row, definition.column(row, column), setting)]))[0]
    return Planned(
        place=place, measured=measured, own=own, required=frozenset(required), n=paper.n, reasons=compared.reasons
    )


def _names(setting: Setting) -> dict[str, str]:
    return {"arch": setting.arch, "recipe": setting.recipe}


def _plan(
    definition: Definition, row: RowDefinition, column: ColumnDefinition, registry: Registry
) -> tuple[dict[str, object], set[str]]:
    """Plan one cell by the request that the board makes for it."""
    alone = replace(definition, rows=(row,), columns=(column,))
    result = plan(requests(alone, [])[0], registry)
    (subject,) = result.subjects
    found = settings_of(subject, result.dataset)
    required = required_of(subject, found) | {"split", "n"}
    for cell in result.cells:
        found |= settings_of_attack(cell)
        required |= required_of_attack(cell)
    for analysis in result.analyses:
        found |= {f"analysis.{name}": value for name, value in analysis.params.items()}
        required |= {"analysis.attack"} if "attack" in analysis.params else set()
    return found, required


def _row(found: Mapping[str, object], row: RowDefinition, column: ColumnDefinition, setting: Setting) -> Row:
    """Make what a record of this cell would give, on as many images as the board asks for."""
    n = min(setting.n or TEST_IMAGES[setting.dataset], TEST_IMAGES[setting.dataset])
    result = Row(
        dataset=setting.dataset, data_sha256="", defense=row.defense, arch=str(found["network"]),
        recipe=str(found["recipe"]), train_seed=setting.train_seeds[0], weights_sha256="",
    )  # fmt: skip
    if column.analysis:
        result.analyses = {column.analysis: {column.quantity: SimpleNamespace(value=0.5, n=n)}}
        return result
    threat, bits = threat_of(setting, column), "1" * n
    result.cells[column.attack, threat, setting.seed] = CellResult(
        attack=column.attack, threat=threat, params={}, seed=setting.seed, on="", knowledge="adaptive", votes=1,
        minimal=False, ranked=True, attack_revision=1, split_size=n, clean=bits, raw=bits, last=bits, any=bits,
        forwards=1, backwards=1, flags={}, probes={}, records="",
    )  # fmt: skip
    return result


def differences(planned: Planned, lines: Sequence[Line]) -> Iterator[str]:
    """Tell where a cell is planned in another setting than the table's, or the board says another thing of it."""
    if planned.error:
        yield f"{planned.place}: {planned.error}"
        return
    expected = stated(planned.place, lines)
    yield from (f"{planned.place}: no line for {name}" for name in sorted(planned.required - set(expected)))
    for name, value in expected.items():
        unperturbed = name.startswith("attack.") and planned.own.get("attack", "clean") == "clean"
        if value == NOT_STATED or name in ("split", "n") or unperturbed:
            continue
        if name not in planned.own:
            yield f"{planned.place}: {name} is {value} in the sources, and there is no such setting here"
        elif not same(planned.own[name], value):
            yield f"{planned.place}: {name} is {value} in the sources, {_text(planned.own[name])} is planned"
    if expected.get("n", NOT_STATED) != NOT_STATED and str(planned.n) != expected["n"]:
        yield f"{planned.place}: n is {expected['n']} in the sources, {planned.n} on the board"
    yield from _deviations(planned, expected)


def _deviations(planned: Planned, expected: Mapping[str, str]) -> Iterator[str]:
    """Tell where a setting differs from the sources' and the board does not say so, or the other way round."""
    differ = {"recipe": "recipe", "network": "network", "eps": "attack.eps"}
    for word, name in differ.items():
        value = expected.get(name, NOT_STATED)
        if value == NOT_STATED or name not in planned.own or not same(planned.own[name], value):
            continue
        other = not same(planned.measured[name], value)
        if other != (word in planned.reasons):
            said = "names no difference" if other else "names a difference"
            yield f"{planned.place}: the board {said} in {word}, measured with {_text(planned.measured[name])}"
    n = expected.get("n", NOT_STATED)
    if n != NOT_STATED and (n != str(TEST_IMAGES[planned.place.dataset])) != ("n" in planned.reasons):
        yield f"{planned.place}: the sources have n = {n}, and the board's reasons are {planned.reasons}"
    if expected.get("split", "test") not in ("test", NOT_STATED) and not {"n", "protocol"} & set(planned.reasons):
        yield f"{planned.place}: the sources test on images {expected['split']}, and the board does not say so"


def silent(planned: Iterable[Planned], lines: Sequence[Line]) -> set[str]:
    """List the settings of a board that no source states."""
    return {
        name for one in planned for name, value in stated(one.place, lines).items()
        if value == NOT_STATED and (one.error or name in one.required or name in one.own)
    }  # fmt: skip


def trained(defense: str, dataset: str, registry: Registry) -> Planned:
    """Plan a defense with its own recipe, outside of boards; its inner attack may only watch the training."""
    result = plan(Request(defenses=[defense], attacks=("clean",), dataset=dataset), registry)
    (subject,) = result.subjects
    found = settings_of(subject, result.dataset)
    required = required_of(subject, found) - set(INNER) | {"inner.eps", "inner.mode"}
    place = Place(board=defense, dataset=dataset, row=defense, column="")
    return Planned(place=place, measured=found, own=found, required=frozenset(required), n=None)


def attacks_of(group: str, dataset: str, registry: Registry) -> list[Planned]:
    """Plan a paper's group of attacks: a cell for each, whose column is the attack's name."""
    found = []
    for cell in plan(Request(defenses=["raw"], attacks=(group,), dataset=dataset), registry).cells:
        own, name = settings_of_attack(cell), parse_name(cell.attack)[0]
        place = Place(board=group, dataset=dataset, row="", column=name)
        required = required_of_attack(cell) - {"attack"}
        if registry.entry(Attack, cell.attack).spec.minimal:
            required -= {"attack.eps"}
        found.append(Planned(place=place, measured=own, own=own, required=frozenset(required), n=None))
    return found
