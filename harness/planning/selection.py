"""What a user means by names, globs and groups of attacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.errors import UsageError
from harness.registry.names import format_name, overrides, parse_name, resolve, split_names, split_target
from harness.registry.registry import WILDCARDS, Entry, Registry
from harness.types import Attack, Skip, ThreatModel, Value

EVERY_ATTACK = "extended"
"""The group that every attack belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """An attack as selected: the id that records give it, and its parameters.

    `on`: the stand-in that it is to run on, empty for what is deployed. `threat`: what it runs under where the user
    names none of its kind, None for the dataset's own.
    """

    name: str
    attack: Attack
    params: dict[str, Value]
    on: str = ""
    threat: ThreatModel | None = None


def select_attacks(texts: Sequence[str], registry: Registry) -> tuple[list[Selected], list[Skip]]:
    """Find the attacks of names, globs and groups, with their parameters; doubles dropped, the cheapest first.

    Members of a group whose name is claimed twice, or that have a measured defect, cannot run; they come back as skips.

    Raises:
        UsageError: for an attack asked for by name that cannot be used, or a parameter that it does not have.
        NothingSelected: where a glob matches nothing.
    """
    chosen: dict[tuple[str, str], Selected] = {}
    skips: dict[str, Skip] = {}
    known = {name for entry in registry.entries(Attack) for name, _ in groups(entry.spec)}
    for text in split_names(texts):
        bare, target = split_target(text)
        name, given = parse_name(bare)
        by_name = name not in known and not any(sign in name for sign in WILDCARDS)
        if name in known:
            found = list(_members(name, registry))
            skips |= {skip.attack: skip for skip in _clashing(name, registry)}
        else:
            found = [(asked, entry, {}) for asked, entry in registry.match(Attack, name).items()]
        for asked, entry, of_group in found:
            threat = _threat(entry.spec, name) if name in known else None
            attack = entry.spec
            if attack.defect and by_name:
                raise UsageError(f"attack '{name}' is listed but never runs: {attack.defect}")
            if attack.defect:
                skips[asked] = Skip(defense="every defense", attack=asked, reason=attack.defect)
                continue
            resolved = resolve("attack", asked, attack.params, {**of_group, **given})
            if attack.prefix in resolved and int(str(resolved[attack.prefix])) < 1:
                raise UsageError(f"attack '{asked}': {attack.prefix}={resolved[attack.prefix]} must be at least 1")
            label = format_name(asked, overrides(attack.params, resolved)) + (f"@{target}" if target else "")
            found_one = Selected(name=label, attack=attack, params=resolved, on=target, threat=threat)
            chosen.setdefault((label, str(threat)), found_one)
    return sorted(chosen.values(), key=lambda selected: selected.attack.cost), list(skips.values())


def _threat(attack: Attack, group: str) -> ThreatModel | None:
    """Find the threat model that an attack has in a group, None where that is left to the dataset."""
    return ThreatModel.parse(attack.budgets[group]) if group in attack.budgets else None


def groups(attack: Attack) -> list[tuple[str, dict[str, Value]]]:
    """List every group that an attack belongs to, with the parameters it has there."""
    return [*(parse_name(text) for text in attack.groups), (EVERY_ATTACK, {})]


def _members(group: str, registry: Registry) -> Iterator[tuple[str, Entry[Attack], dict[str, Value]]]:
    for entry in registry.entries(Attack):
        for name, params in groups(entry.spec):
            if name == group:
                yield entry.spec.name, entry, params


def _clashing(group: str, registry: Registry) -> Iterator[Skip]:
    for twice, claims in registry.clashing(Attack).items():
        if any(name == group for claim in claims for name, _ in groups(claim.spec)):
            reason = f"claimed by {' and '.join(str(claim.provider) for claim in claims)}"
            yield Skip(defense="every defense", attack=twice, reason=reason)
