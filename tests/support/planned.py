"""What is planned for the cells of boards, written out setting by setting, in the words of `settings.csv`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from harness.errors import NothingSelected, UsageError
from harness.leaderboard.comparison import compare, threat_of
from harness.leaderboard.definition import Definition
from harness.leaderboard.missing import requests
from harness.leaderboard.printed import Key, PrintedValue
from harness.planning.plan import plan
from harness.planning.request import Request
from harness.registry.names import default_value, parse_name, split_target
from harness.registry.registry import Registry
from harness.results.rows import Row, rows
from harness.training.checkpoints import budget
from harness.types import Attack, Cell, Defense, Subject
from support.records import record, record_of

TEST_IMAGES = {"mnist": 10000, "svhn": 26032, "cifar10": 10000, "cifar100": 10000, "tiny-imagenet": 10000}
"""How many test images each dataset has; of Tiny-ImageNet those of its validation folder, which have labels."""
RECIPE = (
    "optimizer", "lr", "momentum", "weight_decay", "schedule", "decay", "epochs", "batch", "augment", "selection",
)  # fmt: skip
TRAINING = ("defense", "recipe", "network", "optimizer", "lr", "weight_decay", "schedule", "epochs", "batch", "augment")
INNER = ("inner.eps", "inner.steps", "inner.step", "inner.start", "inner.mode")
NO_INNER = {"raw", "raw_gd", "simple_structure"}
"""Defenses that train on no examples of an inner attack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a setting holds: what the lines of the table are matched with."""

    board: str
    dataset: str
    row: str
    column: str

    def __str__(self) -> str:
        return f"{self.board} ({self.dataset}), {self.row}, {self.column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One cell of a board, as it is measured, and as the board has it in the paper's own setting.

    `required`: the settings that the table must speak about. `n`: how many images the board says that the paper has.
    `reasons`: in which respects the board would say that its number is of another setting. `free`: the parameters of
    the defense that are not the plugin's own, which the table must speak about too. `error`: why it cannot be planned.
    """

    place: Place
    measured: Mapping[str, object]
    own: Mapping[str, object]
    required: frozenset[str]
    n: int | None = None
    reasons: tuple[str, ...] = ()
    free: frozenset[str] = frozenset()
    error: str = ""


def cells(definition: Definition, printed: Mapping[Key, Sequence[PrintedValue]], registry: Registry) -> list[Planned]:
    """Plan every printed cell of a paper's board that a command measures."""
    found = []
    for row in definition.rows:
        for column in definition.columns:
            alone = replace(definition, rows=(row,), columns=(column,))
            printed_here = row.printed and definition.column(row, column).printed
            if row.defense and printed_here and requests(alone, []):
                found.append(_planned(alone, printed, registry))
    return found


def trained(defense: str, dataset: str, registry: Registry) -> Planned:
    """Plan a defense with its own recipe, outside of boards; its inner attack may only watch the training."""
    result = plan(Request(defenses=[defense], attacks=("clean",), dataset=dataset), registry)
    (subject,) = result.subjects
    found = _settings(subject, result.dataset)
    required = _required(subject, found) - set(INNER) | {"inner.eps", "inner.mode"}
    place = Place(board=defense, dataset=dataset, row=defense, column="")
    return Planned(place=place, measured=found, own=found, required=frozenset(required))


def attacks_of(group: str, dataset: str, registry: Registry) -> list[Planned]:
    """Plan a paper's group of attacks: a cell for each, whose column is the attack's name."""
    found = []
    for cell in plan(Request(defenses=["raw"], attacks=(group,), dataset=dataset), registry).cells:
        own = _settings_of_attack(cell)
        required = _required_of_attack(cell) - {"attack"}
        if registry.entry(Attack, cell.attack).spec.minimal:
            required -= {"attack.eps"}
        place = Place(board=group, dataset=dataset, row="", column=str(own["attack"]))
        found.append(Planned(place=place, measured=own, own=own, required=frozenset(required)))
    return found


def _planned(
    definition: Definition, printed: Mapping[Key, Sequence[PrintedValue]], registry: Registry
) -> Planned:  # fmt: skip
    (row,), (column,), paper = definition.rows, definition.columns, definition.paper
    setting = definition.setting(row, column)
    place = Place(board=definition.name, dataset=setting.dataset, row=row.label, column=column.label)
    own_words = {"arch": row.paper_arch or paper.arch, "recipe": paper.recipe}
    own_row = replace(row, settings={**row.settings, **{name: word for name, word in own_words.items() if word}})
    try:
        measured, _ = _plan(definition, registry)
        own, required = _plan(replace(definition, rows=(own_row,)), registry)
    except (UsageError, NothingSelected) as error:
        return Planned(place=place, measured={}, own={}, required=frozenset(), error=str(error))
    (compared,) = next(compare(definition, printed, _measured(measured, definition)))
    column = definition.column(row, column)
    own |= {"protocol": setting.protocol, "reading": setting.reading, "printed.arch": row.printed_arch}
    own |= {"printed.dataset": row.printed_dataset.replace("_", "-") or setting.dataset}
    own |= {"printed.row": row.printed, "printed.column": column.printed, "printed.metric": column.metric}
    required |= {"printed.row", "printed.column", "printed.metric"} | ({"reading"} if column.attack else set())
    required |= {"printed.arch"} if row.printed_arch else set()
    return Planned(
        place=place, measured=measured, own=own, required=frozenset(required), n=paper.n, reasons=compared.reasons,
        free=_free(Defense, row.defense, own, registry) | _free(Attack, column.attack or "clean", own, registry),
    )  # fmt: skip


def _free(
    kind: type[Attack] | type[Defense], text: str, own: Mapping[str, object], registry: Registry
) -> frozenset[str]:  # fmt: skip
    """List the parameters of a defense or an attack that have another value than its plugin's own."""
    name, given = parse_name(split_target(text)[0])
    params = registry.entry(kind, name).spec.params
    names = {param: f"{kind.__name__.lower()}.{param}" for param in given}
    return frozenset(names[param] for param in given if own[names[param]] != default_value(params[param]))


def _plan(definition: Definition, registry: Registry) -> tuple[dict[str, object], set[str]]:
    """Plan the one cell of a board by the request that the board makes for it; settings, and those required."""
    column = definition.column(definition.rows[0], definition.columns[0])
    result = plan(requests(definition, [])[0], registry)
    (subject,) = result.subjects
    found = _settings(subject, result.dataset)
    required = _required(subject, found) | {"split", "n"}
    for cell in result.cells:
        found |= _settings_of_attack(cell)
        required |= _required_of_attack(cell)
    for analysis in result.analyses:
        found |= {f"analysis.{name}": value for name, value in analysis.params.items()}
        found |= {"quantity": column.quantity, "scale": column.scale}
        required |= {"quantity"} | ({"analysis.attack"} if "attack" in analysis.params else set())
    return found, required


def _settings(subject: Subject, dataset: Any) -> dict[str, object]:
    """Write out how a subject is trained and deployed."""
    found: dict[str, object] = {"network": subject.arch, "defense": parse_name(subject.defense)[0]}
    found |= {f"defense.{name}": value for name, value in subject.defense_params.items()}
    recipe = subject.recipe
    if recipe is not None:
        found |= {"recipe": recipe.name, **{name: getattr(recipe, name) for name in RECIPE}}
        found["milestones"] = " ".join(map(str, recipe.milestones))
        eps, step = budget(recipe, SimpleNamespace(spec=dataset, name=dataset.name))
        found |= {"inner.eps": eps, "inner.step": step}
        found |= {f"inner.{name}": getattr(recipe.inner, name) for name in ("steps", "start", "mode")}
    return found


def _settings_of_attack(cell: Cell) -> dict[str, object]:
    found: dict[str, object] = {f"attack.{name}": value for name, value in cell.params.items()}
    found["attack"] = parse_name(split_target(cell.attack)[0])[0]
    found |= {"attack.eps": cell.threat.eps} if cell.threat.eps is not None else {}
    if {"low", "high"} <= set(cell.params):
        found["attack.width"] = int(str(cell.params["high"])) - int(str(cell.params["low"])) + 1
    return found


def _required(subject: Subject, found: Mapping[str, object]) -> set[str]:
    """List the settings of a training that the table must speak about."""
    wanted = {*TRAINING, *(f"defense.{weight}" for weight in _weights(subject))}
    wanted |= {"momentum"} if found.get("optimizer") == "sgd" else set()
    wanted |= {"milestones", "decay"} if found.get("schedule") == "steps" else set()
    return wanted | (set(INNER) if parse_name(subject.defense)[0] not in NO_INNER else set())


def _weights(subject: Subject) -> tuple[str, ...]:
    """List the weights of a defense's loss, by the names of its parameters."""
    name, params = parse_name(subject.defense)[0], subject.defense_params
    if name in ("aalp", "aalp_sw"):
        return ("alpha", "beta") if params["version"] == 1 else ("alpha",)
    if name == "ancra":
        own = {"trades": ("beta",), "mart": ("mart_beta",)}.get(str(params["variant"]), ())
        return (*own, "auxiliary", "zeta", "alpha")
    found = {"pgd_at": "mix", "alp": "weight", "trades": "beta", "mart": "beta", "aalp_gd": "alpha"}
    return ("a", "b") if name == "simple_structure" else tuple(filter(None, [found.get(name)]))


def _required_of_attack(cell: Cell) -> set[str]:
    """List the settings of an attack that the table must speak about; AutoAttack's parts are fixed by its name."""
    if cell.attack == "clean":
        return set()
    wanted = {"attack"} | ({"attack.eps"} if cell.threat.eps is not None else set())
    parts = () if cell.attack.startswith("aa_") else ("steps", "step")
    parts += ("kappa",) if cell.params.get("loss") == "margin" else ()
    return wanted | {f"attack.{name}" for name in parts if name in cell.params}


def _measured(found: Mapping[str, object], definition: Definition) -> list[Row]:
    """Make what a record of a board's one cell would give, on as many images as the board asks for."""
    (row,), (bare,) = definition.rows, definition.columns
    column, setting = definition.column(row, bare), definition.setting(row, bare)
    n = min(setting.n or TEST_IMAGES[setting.dataset], TEST_IMAGES[setting.dataset])
    names = {
        "dataset": setting.dataset, "defense": row.defense, "arch": found["network"], "recipe": found["recipe"],
        "train_seed": setting.train_seeds[0], "seed": setting.seed, "split_size": n,
    }  # fmt: skip
    bits = dict.fromkeys(("clean", "raw", "last", "any_"), "1" * n)
    cell = record(attack=column.attack, threat=threat_of(setting, column), span=(0, n), **bits, **names)
    if not column.analysis:
        return rows([cell])
    kind = {"kind": "analysis", "analysis": column.analysis, "analysis_revision": 1, "n": n}
    quantities = {column.quantity: {"value": 0.5, "n": n, "unit": ""}}
    return rows([record_of({**cell["identity"], **kind}, {"quantities": quantities})])
