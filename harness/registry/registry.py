"""What is installed: names to specs, who provides them, and which plugins are broken.

A name offered twice is unusable until it is qualified.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pluggy

from harness.errors import NothingSelected, UnknownName, UsageError
from harness.registry.names import parse_name, split_target
from harness.types import Analysis, Architecture, Attack, Dataset, Defense, ThreatKind

NOUNS: dict[type, str] = {
    Attack: "attack",
    Defense: "defense",
    Dataset: "dataset",
    Architecture: "architecture",
    ThreatKind: "threat kind",
    Analysis: "analysis",
}
WILDCARDS = "*?"
Spec = TypeVar("Spec", Attack, Defense, Dataset, Architecture, ThreatKind, Analysis)
"""Any of the things a plugin offers."""


@dataclass(frozen=True, slots=True)
class Provider:
    """Where something comes from: plugin name, distribution and version.

    `origin` is what records name: the plugin, and for a plugin file also the first digits of the sha256 of its bytes,
    so that editing the file is another attack or defense.
    """

    plugin: str
    distribution: str
    version: str
    origin: str = ""

    def __post_init__(self) -> None:
        if not self.origin:
            object.__setattr__(self, "origin", self.plugin)

    def __str__(self) -> str:
        return f"{self.plugin} ({self.distribution} {self.version})".replace(" )", ")")


@dataclass(frozen=True, slots=True)
class Entry(Generic[Spec]):
    """A spec and who provides it."""

    spec: Spec
    provider: Provider


@dataclass(frozen=True, slots=True)
class Broken:
    """A plugin that could not be used."""

    provider: Provider
    reason: str
    trace: str


@dataclass(slots=True)
class Loaded:
    """A plugin that works: its manager (for observers), how many specs it offers and its import time in seconds."""

    provider: Provider
    manager: pluggy.PluginManager
    offers: list[Any] = field(default_factory=list)
    seconds: float = 0.0


class Registry:
    """Names -> specs, over every working plugin."""

    def __init__(self, loaded: Iterable[Loaded], broken: Iterable[Broken] = ()) -> None:
        self.loaded = list(loaded)
        self.broken = list(broken)
        self._entries: dict[type, dict[str, list[Entry[Any]]]] = {kind: {} for kind in NOUNS}
        for plugin in self.loaded:
            for spec in plugin.offers:
                self._entries[type(spec)].setdefault(spec.name, []).append(Entry(spec, plugin.provider))
        self._aliases: dict[str, list[Entry[Any]]] = {}
        for entry in (entry for found in self._entries[Attack].values() for entry in found):
            for alias in entry.spec.aliases:
                self._aliases.setdefault(alias, []).append(entry)

    def entries(self, kind: type[Spec]) -> list[Entry[Spec]]:
        """List everything usable by its bare name, in order of registration."""
        return [found[0] for found in self._entries[kind].values() if len(found) == 1]

    def named(self, name: str) -> list[Entry[Any]]:
        """Find every entry of that bare or qualified name, of whatever kind.

        Raises:
            UnknownName: where there is none.
        """
        found = [entry for names in self._entries.values() for entry in names.get(name, [])]
        found = found or self._aliases.get(name, [])
        owner, _, bare = name.partition("/")
        if not found and bare:
            entries = [entry for names in self._entries.values() for entry in names.get(bare, [])]
            found = [e for e in entries if owner in (e.provider.distribution, e.provider.plugin)]
        if not found:
            known = {known for names in self._entries.values() for known in names}
            raise UnknownName("name", name, known, [broken_line(broken) for broken in self.broken])
        return found

    def clashes(self) -> list[str]:
        """Write one line for each name or alias that is offered twice."""
        names = [_clash(kind, name, found) for kind in NOUNS for name, found in self.clashing(kind).items()]
        return names + [_clash(Attack, alias, found) for alias, found in self._aliases.items() if len(found) > 1]

    def clashing(self, kind: Any) -> dict[str, list[Entry[Any]]]:
        """Find the names of one kind that are offered twice, with everything offered under each."""
        return {name: found for name, found in self._entries[kind].items() if len(found) > 1}

    def get(self, kind: type[Spec], name: str) -> Entry[Spec]:
        """Look a bare or qualified (`distribution/name`) name up.

        Raises:
            UnknownName: with the nearest names and the plugins that failed to load.
            UsageError: where two distributions offer the name.
        """
        found = self._entries[kind].get(name, []) or (self._aliases.get(name, []) if kind is Attack else [])
        if not found and "/" in name:
            owner, _, bare = name.partition("/")
            named = self._entries[kind].get(bare, [])
            found = [entry for entry in named if owner in (entry.provider.distribution, entry.provider.plugin)]
        if len(found) > 1:
            raise UsageError(_clash(kind, name, found))
        if not found:
            known = [entry.spec.name for entry in self.entries(kind)] + (list(self._aliases) if kind is Attack else [])
            raise UnknownName(NOUNS[kind], name, known, [broken_line(broken) for broken in self.broken])
        return found[0]

    def entry(self, kind: type[Spec], identifier: str) -> Entry[Spec]:
        """Look an id with parameters up, such as `aalp[version=1]` or `pgd-40@base`; raises as `get` does."""
        return self.get(kind, parse_name(split_target(identifier)[0])[0])

    def match(self, kind: type[Spec], pattern: str) -> dict[str, Entry[Spec]]:
        """Find every entry whose name matches a glob, under the name to ask for it; one without wildcards must exist.

        The name is the bare one wherever that is enough.

        Raises:
            UsageError: as `get` does, for a name without wildcards.
            NothingSelected: where a glob matches nothing.
        """
        if not any(sign in pattern for sign in WILDCARDS):
            entry = self.get(kind, pattern)
            alone = len(self._entries[kind][entry.spec.name]) == 1
            return {entry.spec.name if alone else pattern: entry}
        entries = self.entries(kind)
        # As in a shell, a wildcard stays in its folder: `*` is not all of `robustbench/`.
        entries = [entry for entry in entries if entry.spec.name.count("/") == pattern.count("/")]
        found = {entry.spec.name: entry for entry in entries if fnmatch.fnmatchcase(entry.spec.name, pattern)}
        if not found:
            raise NothingSelected(f"nothing selected: '{pattern}' matched 0 of {len(entries)} {NOUNS[kind]}s")
        return found

    def observe(self, record: Mapping[str, object]) -> list[str]:
        """Show a record to every observer; return one line for each that failed."""
        failures = []
        for plugin in self.loaded:
            try:
                plugin.manager.hook.harness_record(record=record)
            except Exception as error:
                failures.append(f"observer {plugin.provider} failed: {type(error).__name__}: {error}")
        return failures


def broken_line(broken: Broken) -> str:
    """Write one warning line about a broken plugin."""
    return (
        f"plugin {broken.provider} not loaded: {broken.reason}. "
        f"Others are unaffected. harness plugins --trace {broken.provider.plugin}"
    )


def _clash(kind: type, name: str, found: list[Entry[Any]]) -> str:
    owners = " and ".join(str(entry.provider) for entry in found)
    return (
        f"{NOUNS[kind]} '{name}' is provided twice: {owners}. "
        f"Use {found[-1].provider.plugin}/{name}, or --no-plugin {found[-1].provider.plugin}"
    )
