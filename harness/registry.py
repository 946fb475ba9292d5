"""Discovery: which plugins are installed, what they offer, and which of them are broken.

Own loop over the entry-point group `harness`: a plugin that does not import, breaks a hook or offers nonsense is set
aside with its reason and the others go on; a name offered twice is unusable until it is qualified.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import importlib
import importlib.util
import re
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar

import pluggy

from harness import hookspecs
from harness.errors import NothingSelected, PluginError, UnknownName, UsageError
from harness.types import Architecture, Attack, Dataset, Defense, ThreatKind

GROUP = "harness"
BUILT_IN = "harness.threats"
_HOOKS: dict[str, type] = {
    "harness_attacks": Attack,
    "harness_defenses": Defense,
    "harness_datasets": Dataset,
    "harness_architectures": Architecture,
    "harness_threat_models": ThreatKind,
}
NOUNS: dict[type, str] = {
    Attack: "attack",
    Defense: "defense",
    Dataset: "dataset",
    Architecture: "architecture",
    ThreatKind: "threat kind",
}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*")
RESERVED = ("all", "extended")
"""Groups that every installation has, so no attack may be called so."""
_FROM_FILES: set[str] = set()
"""The names under which plugin files stand in `sys.modules`."""
Spec = TypeVar("Spec", Attack, Defense, Dataset, Architecture, ThreatKind)
"""Any of the things a plugin offers."""


@dataclass(frozen=True, slots=True)
class Provider:
    """Where something comes from: plugin name, distribution and version.

    `origin` is what records name: the plugin, and for a plugin file also the head of the sha256 of its bytes, so that
    editing the file is another attack or defense.
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

    def entries(self, kind: type[Spec]) -> list[Entry[Spec]]:
        """Everything usable by its bare name, in order of registration."""
        return [found[0] for found in self._entries[kind].values() if len(found) == 1]

    def named(self, name: str) -> list[Entry[Any]]:
        """Every entry of that bare or qualified name, of whatever kind.

        Raises:
            UnknownName: where there is none.
        """
        found = [entry for names in self._entries.values() for entry in names.get(name, [])]
        owner, _, bare = name.partition("/")
        if not found and bare:
            entries = [entry for names in self._entries.values() for entry in names.get(bare, [])]
            found = [e for e in entries if owner in (e.provider.distribution, e.provider.plugin)]
        if not found:
            known = {known for names in self._entries.values() for known in names}
            raise UnknownName("name", name, known, [broken_line(broken) for broken in self.broken])
        return found

    def clashes(self) -> list[str]:
        """One line for each name that is offered twice."""
        return [_clash(kind, name, found) for kind in NOUNS for name, found in self.clashing(kind).items()]

    def clashing(self, kind: Any) -> dict[str, list[Entry[Any]]]:
        """The names of one kind that are offered twice, with everything offered under each."""
        return {name: found for name, found in self._entries[kind].items() if len(found) > 1}

    def get(self, kind: type[Spec], name: str) -> Entry[Spec]:
        """Look a bare or qualified (`distribution/name`) name up.

        Raises:
            UnknownName: with the nearest names and the plugins that failed to load.
            UsageError: where two distributions offer the name.
        """
        found = self._entries[kind].get(name, [])
        if not found and "/" in name:
            owner, _, bare = name.partition("/")
            named = self._entries[kind].get(bare, [])
            found = [entry for entry in named if owner in (entry.provider.distribution, entry.provider.plugin)]
        if len(found) > 1:
            raise UsageError(_clash(kind, name, found))
        if not found:
            known = [entry.spec.name for entry in self.entries(kind)]
            raise UnknownName(NOUNS[kind], name, known, [broken_line(broken) for broken in self.broken])
        return found[0]

    def match(self, kind: type[Spec], pattern: str) -> dict[str, Entry[Spec]]:
        """Every entry whose name matches a glob, under the name to ask for it; one without wildcards must exist.

        The name is the bare one wherever that is enough.
        """
        if not any(sign in pattern for sign in "*?"):
            entry = self.get(kind, pattern)
            alone = len(self._entries[kind][entry.spec.name]) == 1
            return {entry.spec.name if alone else pattern: entry}
        entries = self.entries(kind)
        found = {entry.spec.name: entry for entry in entries if fnmatch.fnmatchcase(entry.spec.name, pattern)}
        if not found:
            raise NothingSelected(f"nothing selected: '{pattern}' matched 0 of {len(entries)} {NOUNS[kind]}s")
        return found

    def observe(self, record: Mapping[str, Any]) -> list[str]:
        """Show a record to every observer; one line for each that failed."""
        failures = []
        for plugin in self.loaded:
            try:
                plugin.manager.hook.harness_record(record=record)
            except Exception as error:
                failures.append(f"observer {plugin.provider} failed: {type(error).__name__}: {error}")
        return failures


def discover(files: Collection[Path] = (), without: Iterable[str] = ()) -> Registry:
    """Load the built-in threat kinds, every installed plugin and the given plugin files.

    Raises:
        UsageError: where a name in `without` is no installed plugin.
        PluginError: where one of the given files is broken; installed ones are set aside instead.
    """
    built_in = Provider("harness", "adversarial-harness", metadata.version("adversarial-harness"))
    sources: list[tuple[Provider, Callable[[], Any]]] = [
        (built_in, functools.partial(importlib.import_module, BUILT_IN))
    ]
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name):
        owner = point.dist
        provider = Provider(point.name, owner.name if owner else "?", owner.version if owner else "?")
        sources.append((provider, point.load))
    for path in files:
        sources.append((_file_provider(path), functools.partial(_module_from, path)))
    unwanted = set(without)
    known = {name for provider, _ in sources for name in (provider.plugin, provider.distribution)}
    if unwanted - known:
        raise UnknownName("plugin", min(unwanted - known), known)
    kept = [item for item in sources if not unwanted & {item[0].plugin, item[0].distribution} or item[0] == built_in]
    results = [load(provider, importer) for provider, importer in kept]
    given = {path.name for path in files}
    for result in results:
        if isinstance(result, Broken) and result.provider.distribution in given:
            raise PluginError(f"--plugin {result.provider.distribution}: {result.reason}")
    return Registry(
        [result for result in results if isinstance(result, Loaded)],
        [result for result in results if isinstance(result, Broken)],
    )


def load(provider: Provider, importer: Callable[[], Any]) -> Loaded | Broken:
    """Import one plugin and ask what it offers; whatever goes wrong makes it `Broken`."""
    start = time.perf_counter()
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(importer(), name=provider.plugin)
        _reject_unknown_hooks(manager)
        plugin = Loaded(provider, manager)
        for hook, kind in _HOOKS.items():
            for offered in getattr(manager.hook, hook)():
                plugin.offers.extend(_checked(hook, kind, spec) for spec in offered)
    except (Exception, SystemExit) as error:
        return Broken(provider, f"{type(error).__name__}: {error}", traceback.format_exc())
    plugin.seconds = time.perf_counter() - start
    return plugin


def broken_line(broken: Broken) -> str:
    """One warning line about a broken plugin."""
    return (
        f"plugin {broken.provider} not loaded: {broken.reason}. "
        f"Others are unaffected. harness plugins --trace {broken.provider.plugin}"
    )


def _reject_unknown_hooks(manager: pluggy.PluginManager) -> None:
    for plugin in manager.get_plugins():
        for caller in manager.get_hookcallers(plugin) or ():
            if not caller.has_spec():
                raise PluginError(f"'{caller.name}' is no hook; the hooks are {', '.join([*_HOOKS, 'harness_record'])}")


def _checked(hook: str, kind: Any, spec: Any) -> Any:
    if not isinstance(spec, kind):
        raise PluginError(f"{hook} must return {kind.__name__} values, not {type(spec).__name__}")
    if not _NAME.fullmatch(spec.name) or spec.name in RESERVED:
        raise PluginError(f"{hook}: {spec.name!r} cannot be a name: letters, digits, . _ - and /, none of {RESERVED}")
    return spec


def _clash(kind: type, name: str, found: list[Entry[Any]]) -> str:
    owners = " and ".join(str(entry.provider) for entry in found)
    return (
        f"{NOUNS[kind]} '{name}' is provided twice: {owners}. "
        f"Use {found[-1].provider.plugin}/{name}, or --no-plugin {found[-1].provider.plugin}"
    )


def _file_provider(path: Path) -> Provider:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else "absent"
    return Provider(path.stem, path.name, "", origin=f"{path.stem}@{sha256}")


def _module_from(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise PluginError("no such Python file")
    taken = None if path.stem in _FROM_FILES else importlib.util.find_spec(path.stem)
    if taken is not None and Path(str(taken.origin)).resolve() != path.resolve():
        raise PluginError(f"an installed module is called {path.stem} too; rename the file")
    _FROM_FILES.add(path.stem)
    module = importlib.util.module_from_spec(spec)
    # Registered like any import, so that dataclasses and lazy("file:function") find the file's own names.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
