"""From a request to the cells of the matrix. Every name and compatibility error happens here, before any work.

Sees no torch and no disk: names, numbers and the registry only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from harness.errors import NothingSelected, UnknownName, UsageError
from harness.names import format_name, overrides, parse_name, resolve, split_names
from harness.registry import Entry, Registry
from harness.selection import Selected, select_attacks
from harness.types import (
    FROM_DATASET,
    Architecture,
    Attack,
    Cell,
    Dataset,
    Defense,
    Recipe,
    Skip,
    Subject,
    ThreatKind,
    ThreatModel,
    Value,
)

DEFENSE_OWN_NETWORK = "own"
SURROGATE = "raw"
"""The defense whose network, trained with the next seed, transfer attacks craft on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a user asks for, as typed. `limit`: the first n test images, or a share of them below 1."""

    defenses: Sequence[str]
    attacks: Sequence[str] = ("all",)
    dataset: str = "digits"
    threats: Sequence[str] = ()
    arch: str = ""
    recipe: str = ""
    weights: str = ""
    limit: float | None = None
    seed: int = 0
    train_seed: int = 0


@dataclass(slots=True, kw_only=True)
class Plan:
    """What will be done: subjects, their cells in groups that share one attack run, and what does not apply."""

    dataset: Dataset
    dataset_name: str
    location: str
    subjects: list[Subject]
    groups: list[tuple[Cell, ...]]
    skips: list[Skip]
    limit: float | None = None
    seed: int = 0
    kinds: dict[str, Entry[ThreatKind]] = field(default_factory=dict)

    @property
    def cells(self) -> list[Cell]:
        """Every cell, in the order in which they run."""
        return [cell for group in self.groups for cell in group]


def plan(request: Request, registry: Registry) -> Plan:
    """Resolve every name and check that it all fits together.

    Raises:
        UsageError: for names, parameters or budgets that cannot be used.
        NothingSelected: where no cell is left.
    """
    dataset, dataset_name, location = find_dataset(request.dataset, registry)
    named = [_subjects(name, dataset, request, registry) for name in split_names(request.defenses)]
    subjects = list({subject.defense: subject for found in named for subject in found}.values())
    if request.weights and len(subjects) > 1:
        raise UsageError(f"--weights goes with one defense, not with {len(subjects)}")
    if not subjects:
        raise NothingSelected("nothing selected: name at least one defense with -d")
    if request.limit is not None and not (0 < request.limit <= 1 or (request.limit > 1 and request.limit % 1 == 0)):
        raise UsageError(f"--limit {request.limit}: give a number of images, or a share between 0 and 1")
    threats = list(dict.fromkeys(_threat(text, dataset, registry) for text in split_names(request.threats)))
    chosen, unusable = select_attacks(request.attacks, registry)
    for threat in threats:
        if not any(threat.kind in attack.threats for attack in (selected.attack for selected in chosen)):
            raise UsageError(f"--threat {threat}: none of the selected attacks works under {threat.kind}")
    result = Plan(
        dataset=dataset, dataset_name=dataset_name, location=location, subjects=subjects, groups=[], skips=unusable,
        limit=request.limit, seed=request.seed,
    )  # fmt: skip
    for subject in subjects:
        cells = []
        for selected in chosen:
            found = _cells(subject, selected, dataset, threats, request.seed, registry)
            if isinstance(found, Skip):
                result.skips.append(found)
            else:
                cells.extend(found)
        result.groups.extend(_grouped(cells, registry))
    if not result.groups:
        reasons = "".join(f"\n  {skip.attack}: {skip.reason}" for skip in result.skips)
        raise NothingSelected(f"nothing selected: no attack applies{reasons}")
    result.kinds = {cell.threat.kind: registry.get(ThreatKind, cell.threat.kind) for cell in result.cells}
    return result


def find_dataset(text: str, registry: Registry) -> tuple[Dataset, str, str]:
    """Look `name` or `name:location` up; the name that records show holds the location's last part only."""
    name, colon, location = text.partition(":")
    dataset = registry.get(Dataset, name).spec
    if bool(colon and location) != dataset.located:
        wanted = f"{name}:PATH" if dataset.located else name
        raise UsageError(f"dataset '{text}': write --dataset {wanted}")
    return dataset, f"{name}:{Path(location).stem}" if location else name, location


def find_recipe(name: str, defense: Defense, dataset: Dataset) -> Recipe | None:
    """The named recipe, or the first: the defense's own for this dataset before the dataset's.

    Raises:
        UsageError: where there is no recipe of that name.
    """
    offered = [*defense.recipes.get(dataset.name, ()), *dataset.recipes]
    for recipe in offered:
        if name in ("", recipe.name):
            return recipe
    if not name:
        return None
    names = ", ".join(recipe.name for recipe in offered) or "none"
    raise UsageError(f"no recipe '{name}' for {defense.name} on {dataset.name}; there are: {names}")


def _subjects(text: str, dataset: Dataset, request: Request, registry: Registry) -> list[Subject]:
    name, given = parse_name(text)
    subjects = []
    for asked, entry in registry.match(Defense, name).items():
        defense = entry.spec
        params = resolve("defense", defense.name, defense.params, given)
        recipe = None if defense.load is not None or request.weights else find_recipe(request.recipe, defense, dataset)
        arch_text: str = DEFENSE_OWN_NETWORK
        arch_params: dict[str, Value] = {}
        if defense.load is None:
            template = recipe or find_recipe("", defense, dataset)
            arch_text, arch_params = _network(request.arch or (template.arch if template else ""), defense, registry)
        subjects.append(
            Subject(
                defense=format_name(asked, overrides(defense.params, params)),
                defense_params=params,
                arch=arch_text,
                arch_params=arch_params,
                recipe=recipe,
                train_seed=request.train_seed,
                weights=request.weights,
            )
        )
    return subjects


def _network(text: str, defense: Defense, registry: Registry) -> tuple[str, dict[str, Value]]:
    """The id and the resolved parameters of a network."""
    if not text:
        raise UsageError(f"no network is known for {defense.name} on this dataset: give --arch")
    name, given = parse_name(text)
    arch = registry.get(Architecture, name).spec
    params = resolve("architecture", arch.name, arch.params, given)
    return format_name(arch.name, overrides(arch.params, params)), params


def _threat(text: str, dataset: Dataset, registry: Registry) -> ThreatModel:
    threat = ThreatModel.parse(text)
    kind = registry.get(ThreatKind, threat.kind).spec
    if threat.eps is not None and (not kind.bounded or kind.name == "none"):
        raise UsageError(f"--threat {text}: {kind.name} has no budget")
    if threat.eps is None and (own := _own_threat(threat.kind, dataset, registry)) is not None:
        return own
    if threat.eps is None:
        raise UsageError(f"--threat {text}: dataset '{dataset.name}' has no {text} budget; write {text}:EPS")
    if threat.kind == "linf" and threat.eps is not None and threat.eps > 1:
        raise UsageError(
            f"--threat {text}: eps is on the [0, 1] pixel scale; did you mean {threat.kind}:{threat.eps}/255?"
        )
    return threat


def _cells(
    subject: Subject, selected: Selected, dataset: Dataset, threats: list[ThreatModel], seed: int, registry: Registry
) -> list[Cell] | Skip:
    attack, k = selected.attack, dataset.classes
    if k is not None and not attack.min_classes <= k <= (attack.max_classes or k):
        bounds = f"{attack.min_classes} classes" if k < attack.min_classes else f"at most {attack.max_classes} classes"
        reason = f"needs {bounds}, {dataset.name} has {k}"
        return Skip(defense=subject.defense, attack=selected.name, reason=reason)
    wanted = [threat for threat in threats if threat.kind in attack.threats]
    if not wanted:
        own = [threat for kind in attack.threats if (threat := _own_threat(kind, dataset, registry)) is not None]
        if not own:
            reason = f"{dataset.name} has no budget for {' or '.join(attack.threats)}; give one with --threat"
            return Skip(defense=subject.defense, attack=selected.name, reason=reason)
        default = next(iter(dataset.budgets), "")
        wanted = [next((t for t in own if t.kind == default and not attack.minimal), own[0])]
    surrogate = None
    if "surrogate" in attack.needs:
        found = _surrogate(subject, dataset, registry)
        if isinstance(found, str):
            return Skip(defense=subject.defense, attack=selected.name, reason=found)
        surrogate = found
    return [
        Cell(
            subject=subject, attack=selected.name, params=_with_step(selected.params, threat, dataset.step),
            threat=threat, seed=seed, surrogate=surrogate,
        )
        for threat in wanted
    ]  # fmt: skip


def _own_threat(name: str, dataset: Dataset, registry: Registry) -> ThreatModel | None:
    """The dataset's budget of a kind, where it has one or the kind needs none."""
    kind = registry.get(ThreatKind, name).spec
    eps = dataset.budgets.get(name, dataset.budgets.get(kind.budget_of))
    return ThreatModel(kind=name, eps=eps) if eps is not None or not kind.bounded or name == "none" else None


def _surrogate(subject: Subject, dataset: Dataset, registry: Registry) -> Subject | str:
    """What a transfer attack on a subject crafts on, or why there is nothing."""
    try:
        raw = registry.get(Defense, SURROGATE).spec
    except UnknownName:
        return f"it crafts on a surrogate, and no defense '{SURROGATE}' is installed"
    except UsageError as error:
        return f"it crafts on a surrogate, and {error}"
    recipe = subject.recipe or find_recipe("", raw, dataset)
    if recipe is None:
        return f"it crafts on a surrogate, and {dataset.name} has no recipe to train one"
    own = subject.arch == DEFENSE_OWN_NETWORK
    arch, params = _network(recipe.arch, raw, registry) if own else (subject.arch, dict(subject.arch_params))
    return Subject(
        defense=SURROGATE, defense_params=resolve("defense", SURROGATE, raw.params, {}), arch=arch, arch_params=params,
        recipe=recipe, train_seed=subject.train_seed + 1,
    )  # fmt: skip


def _with_step(params: dict[str, Value], threat: ThreatModel, share: Fraction) -> dict[str, Value]:
    """Put the dataset's step in, where the attack leaves it open."""
    step = threat.eps * share if threat.eps is not None else None
    return {key: step if value == FROM_DATASET else value for key, value in params.items()}


def _grouped(cells: list[Cell], registry: Registry) -> list[tuple[Cell, ...]]:
    """Put cells together whose runs are prefixes of the longest of them."""
    groups: dict[object, list[Cell]] = {}
    for cell in cells:
        attack = registry.entry(Attack, cell.attack).spec
        rest = tuple(sorted((key, str(value)) for key, value in cell.params.items() if key != attack.prefix))
        # Cells of one run share everything but the prefix parameter.
        shared = attack.prefix is not None and attack.prefix in cell.params
        run = (attack.run, attack.revision, attack.access, rest) if shared else cell.attack
        groups.setdefault((run, str(cell.threat)), []).append(cell)
    return [tuple(group) for group in groups.values()]
