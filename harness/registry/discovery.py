"""Discovery: import every installed plugin and every plugin file, and ask what it offers.

Own loop over the entry-point group `harness`: a plugin that does not import, breaks a hook or offers nonsense is set
aside with its reason, and the others go on.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import re
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import pluggy

from harness.errors import PluginError, UnknownName
from harness.registry import hookspecs
from harness.registry.names import parse_name, unlabelled
from harness.registry.registry import Broken, Loaded, Provider, Registry
from harness.types import Analysis, Architecture, Attack, Dataset, Defense, ThreatKind, ThreatModel

GROUP = "harness"
BUILT_IN = "harness.registry.norms"
_HOOKS: dict[str, type] = {
    "harness_attacks": Attack,
    "harness_defenses": Defense,
    "harness_datasets": Dataset,
    "harness_architectures": Architecture,
    "harness_threat_models": ThreatKind,
    "harness_analyses": Analysis,
}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*")
_LABEL = re.compile(r" \([A-Za-z0-9_.-]+\)")
"""What may follow the name of a defense: which of several weights it has."""
RESERVED = ("all", "extended", "adaptive")
"""Groups that every installation has, so no attack may be called so."""
_FROM_FILES: set[str] = set()
"""The names under which plugin files stand in `sys.modules`."""


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


def _reject_unknown_hooks(manager: pluggy.PluginManager) -> None:
    for plugin in manager.get_plugins():
        for caller in manager.get_hookcallers(plugin) or ():
            if not caller.has_spec():
                raise PluginError(f"'{caller.name}' is no hook; the hooks are {', '.join([*_HOOKS, 'harness_record'])}")


def _checked(hook: str, kind: Any, spec: Any) -> Any:
    if not isinstance(spec, kind):
        raise PluginError(f"{hook} must return {kind.__name__} values, not {type(spec).__name__}")
    bare = unlabelled(spec.name) if kind is Defense else spec.name
    labelled = not spec.name[len(bare) :] or _LABEL.fullmatch(spec.name[len(bare) :])
    if not _NAME.fullmatch(bare) or not labelled or bare in RESERVED:
        raise PluginError(f"{hook}: {spec.name!r} cannot be a name: letters, digits, . _ - and /, none of {RESERVED}")
    suites = {parse_name(group)[0] for group in getattr(spec, "groups", ())}
    for suite, budget in getattr(spec, "budgets", {}).items() if kind is Attack else ():
        if suite not in suites or ThreatModel.parse(budget).kind not in spec.threats:
            raise PluginError(f"{hook}: '{spec.name}' has a budget {budget} in '{suite}', where it cannot use it")
    if unknown := set(getattr(spec, "about", ())) - set(getattr(spec, "params", ())):
        raise PluginError(f"{hook}: '{spec.name}' says something about '{min(unknown)}', which is no parameter of it")
    return spec


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
