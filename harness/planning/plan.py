"""From a request to the cells of the matrix. Every name and compatibility error happens here, before any work.

Sees no torch and no disk: names, numbers and the registry only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.errors import NothingSelected, UsageError
from harness.planning.budgets import asked_threat, own_threat, with_step
from harness.planning.request import Request
from harness.planning.selection import EVERY_ATTACK, Selected, select_attacks
from harness.planning.subjects import find_subjects, find_surrogate
from harness.registry.names import format_name, overrides, parse_name, resolve, split_names
from harness.registry.registry import Entry, Registry
from harness.types import (
    Analysis,
    Attack,
    Cell,
    Dataset,
    Defense,
    Knowledge,
    Skip,
    Subject,
    ThreatKind,
    ThreatModel,
    Value,
)

ADAPTIVE = "adaptive"
"""The group of the attacks that each defense names as adaptive; `all` and `extended` include it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAnalysis:
    """One analysis of one subject: names and numbers only."""

    subject: Subject
    analysis: str
    params: Mapping[str, Value]


@dataclass(slots=True, kw_only=True)
class Plan:
    """What will be done: subjects, their cells in groups that share one attack run, and what does not apply."""

    dataset: Dataset
    dataset_name: str
    location: str
    subjects: list[Subject]
    groups: list[tuple[Cell, ...]]
    skips: list[Skip]
    analyses: list[PlannedAnalysis] = field(default_factory=list)
    limit: float | None = None
    seed: int = 0
    everything: bool = False
    kinds: dict[str, Entry[ThreatKind]] = field(default_factory=dict)

    @property
    def cells(self) -> list[Cell]:
        """All cells, in the order in which they run."""
        return [cell for group in self.groups for cell in group]

    def images(self, size: int) -> int:
        """Count the images that are asked for of a test split of this size: all, a number, or a share of the split."""
        if self.limit is None:
            return size
        return min(size, max(1, round(self.limit * size)) if self.limit < 1 else int(self.limit))


def plan(request: Request, registry: Registry) -> Plan:
    """Resolve every name and check that it all fits together.

    Raises:
        UsageError: for names, parameters or budgets that cannot be used.
        NothingSelected: where no cell is left.
    """
    dataset, dataset_name, location = find_dataset(request.dataset, registry)
    named = [find_subjects(name, dataset, request, registry) for name in split_names(request.defenses)]
    subjects = list({subject.defense: subject for found in named for subject in found}.values())
    if request.weights and len(subjects) > 1:
        raise UsageError(f"--weights goes with one defense, not with {len(subjects)}")
    if not subjects:
        raise NothingSelected("nothing selected: name at least one defense with -d")
    if request.limit is not None and not (0 < request.limit <= 1 or (request.limit > 1 and request.limit % 1 == 0)):
        raise UsageError(f"--limit {request.limit}: give a number of images, or a share between 0 and 1")
    threats = list(dict.fromkeys(asked_threat(text, dataset, registry) for text in split_names(request.threats)))
    asked = split_names(request.attacks)
    chosen, unusable = select_attacks([name for name in asked if name != ADAPTIVE], registry)
    adaptive = bool({ADAPTIVE, "all", EVERY_ATTACK} & set(asked))
    for threat in threats:
        if chosen and not any(threat.kind in selected.attack.threats for selected in chosen):
            raise UsageError(f"--threat {threat}: none of the selected attacks works under {threat.kind}")
    result = Plan(
        dataset=dataset, dataset_name=dataset_name, location=location, subjects=subjects, groups=[], skips=unusable,
        limit=request.limit, seed=request.seed,
    )  # fmt: skip
    for subject in subjects:
        cells: list[Cell] = []
        defense = registry.entry(Defense, subject.defense).spec
        for selected in _aimed(chosen, defense, adaptive, registry):
            found = _cells(subject, defense, selected, dataset, threats, request.seed, registry)
            if isinstance(found, Skip):
                result.skips.append(found)
            else:
                planned = {(cell.attack, str(cell.threat)) for cell in cells}
                cells.extend(cell for cell in found if (cell.attack, str(cell.threat)) not in planned)
        result.groups.extend(_grouped(cells, registry))
    result.analyses = [
        PlannedAnalysis(subject=subject, analysis=name, params=params)
        for subject in subjects
        for name, params in _analyses(request.analyses, registry.entry(Defense, subject.defense).spec, registry)
    ]
    if not result.groups and not result.analyses:
        reasons = "".join(f"\n  {skip.attack}: {skip.reason}" for skip in result.skips)
        raise NothingSelected(f"nothing selected: no attack applies{reasons}")
    result.everything = dataset.everything and not _needs_training_images(result, registry)
    result.kinds = {cell.threat.kind: registry.get(ThreatKind, cell.threat.kind) for cell in result.cells}
    return result


def _needs_training_images(found: Plan, registry: Registry) -> bool:
    """Tell whether anything of a plan is trained here, or asks for training images."""
    trained = any(registry.entry(Defense, s.defense).spec.load is None and not s.weights for s in found.subjects)
    asked = any({"surrogate", "train_images"} & set(registry.entry(Attack, c.attack).spec.needs) for c in found.cells)
    return trained or asked or bool(found.analyses)


def _analyses(texts: Sequence[str], defense: Defense, registry: Registry) -> Iterator[tuple[str, dict[str, Value]]]:
    """Find the ids and parameters of the analyses that apply to a defense, by groups such as `all`, names and globs."""
    for text in split_names(texts):
        name, given = parse_name(text)
        found = [entry for entry in registry.entries(Analysis) if name in entry.spec.groups]
        for entry in found or registry.match(Analysis, name).values():
            spec = entry.spec
            if not spec.only_of or defense.name in spec.only_of:
                params = resolve("analysis", spec.name, spec.params, given)
                yield format_name(spec.name, overrides(spec.params, params)), params


def find_dataset(text: str, registry: Registry) -> tuple[Dataset, str, str]:
    """Look `name` or `name:location` up; return the dataset, the name that records show, and the location.

    The name that records show holds the location's last part only.

    Raises:
        UsageError: where there is no such dataset, or a location is missing or not taken.
    """
    name, colon, location = text.partition(":")
    dataset = registry.get(Dataset, name).spec
    if bool(colon and location) != dataset.located:
        wanted = f"{name}:PATH" if dataset.located else name
        raise UsageError(f"dataset '{text}': write --dataset {wanted}")
    return dataset, f"{name}:{Path(location).stem}" if location else name, location


def _aimed(chosen: list[Selected], defense: Defense, adaptive: bool, registry: Registry) -> list[Selected]:
    """List the attacks for one defense, cheapest first.

    On what is deployed, on the stand-ins that every attack with gradients is run on too, and those that the defense
    names as adaptive.
    """
    every = [stand_in.name for stand_in in defense.stand_ins if stand_in.every]
    found = {(selected.name, selected.threat): selected for selected in chosen}
    for selected in chosen:
        attack = selected.attack
        bound = selected.on or attack.only_against or "surrogate" in attack.needs
        if attack.access == "gradient" and not bound:
            aimed = [replace(selected, name=f"{selected.name}@{name}", on=name) for name in every]
            found |= {(one.name, one.threat): one for one in aimed}
    if adaptive:
        known = select_attacks(defense.adaptive, registry)[0]
        found = {(selected.name, selected.threat): selected for selected in known} | found
    return sorted(found.values(), key=lambda selected: selected.attack.cost)


def knowledge_of(attack: Attack, name: str, on: str, defense: Defense) -> Knowledge:
    """Tell what an attacker knows: another network, answers only, the network without its defense, or all of it."""
    if on:
        return next(stand_in.knowledge for stand_in in defense.stand_ins if stand_in.name == on)
    if "surrogate" in attack.needs:
        return "transfer"
    if attack.access != "gradient":
        return "blackbox"
    # Where the network alone is a target of its own, whoever attacks what is deployed knows of the defense.
    published = any(stand_in.knowledge == "static" for stand_in in defense.stand_ins)
    return "adaptive" if attack.only_against or name in defense.adaptive or published else "static"


def _cells(
    subject: Subject, defense: Defense, selected: Selected, dataset: Dataset, threats: list[ThreatModel], seed: int,
    registry: Registry,
) -> list[Cell] | Skip:  # fmt: skip
    attack, k = selected.attack, dataset.classes
    if attack.only_against and defense.name not in attack.only_against:
        reason = f"it is written against {', '.join(attack.only_against)}"
        return Skip(defense=subject.defense, attack=selected.name, reason=reason)
    if selected.on and selected.on not in {stand_in.name for stand_in in defense.stand_ins}:
        offered = ", ".join(stand_in.name for stand_in in defense.stand_ins) or "none"
        reason = f"{defense.name} has no stand-in '{selected.on}'; it has: {offered}"
        return Skip(defense=subject.defense, attack=selected.name, reason=reason)
    if k is not None and not attack.min_classes <= k <= (attack.max_classes or k):
        bounds = f"{attack.min_classes} classes" if k < attack.min_classes else f"at most {attack.max_classes} classes"
        reason = f"needs {bounds}, {dataset.name} has {k}"
        return Skip(defense=subject.defense, attack=selected.name, reason=reason)
    wanted = [threat for threat in threats if threat.kind in attack.threats]
    if not wanted and selected.threat is not None:
        wanted = [selected.threat]
    if not wanted:
        own = [threat for kind in attack.threats if (threat := own_threat(kind, dataset, registry)) is not None]
        if not own:
            reason = f"{dataset.name} has no budget for {' or '.join(attack.threats)}; give one with --threat"
            return Skip(defense=subject.defense, attack=selected.name, reason=reason)
        default = next(iter(dataset.budgets), "")
        wanted = [next((t for t in own if t.kind == default and not attack.minimal), own[0])]
    surrogate = None
    if "surrogate" in attack.needs:
        found = find_surrogate(subject, dataset, registry)
        if isinstance(found, str):
            return Skip(defense=subject.defense, attack=selected.name, reason=found)
        surrogate = found
    return [
        Cell(
            subject=subject, attack=selected.name, params=with_step(selected.params, threat, dataset.step),
            threat=threat, seed=seed, on=selected.on,
            knowledge=knowledge_of(attack, selected.name, selected.on, defense), surrogate=surrogate,
        )
        for threat in wanted
    ]  # fmt: skip


def _grouped(cells: list[Cell], registry: Registry) -> list[tuple[Cell, ...]]:
    """Put cells together whose runs are prefixes of the longest of them."""
    groups: dict[object, list[Cell]] = {}
    for cell in cells:
        attack = registry.entry(Attack, cell.attack).spec
        rest = tuple(sorted((key, str(value)) for key, value in cell.params.items() if key != attack.prefix))
        # Cells of one run share everything but the prefix parameter.
        shared = attack.prefix is not None and attack.prefix in cell.params
        run = (attack.run, attack.revision, attack.access, rest, cell.on) if shared else cell.attack
        groups.setdefault((run, str(cell.threat)), []).append(cell)
    return [tuple(group) for group in groups.values()]
