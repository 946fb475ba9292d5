"""`harness plugins`: which distributions provide what, and what failed."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli import options
from harness.errors import UnknownName
from harness.registry.registry import NOUNS


def command(
    trace: Annotated[str, typer.Option("--trace", help="Print the traceback of one broken plugin.")] = "",
    plugin: options.Plugin = [],  # noqa: B006  typer reads the default, nothing changes it
    no_plugin: options.NoPlugin = [],  # noqa: B006
) -> None:
    """List plugins with distribution, version, number of entries and load time; then broken ones and clashes."""
    registry = options.registry(plugin, no_plugin, quiet=True)
    if trace:
        for broken in registry.broken:
            if trace in (broken.provider.plugin, broken.provider.distribution):
                print(broken.trace.rstrip())
                return
        raise UnknownName("broken plugin", trace, [broken.provider.plugin for broken in registry.broken])
    for loaded in registry.loaded:
        kinds = [NOUNS[type(spec)] for spec in loaded.offers]
        counts = ", ".join(f"{kind} x {kinds.count(kind)}" for kind in dict.fromkeys(kinds)) or "observer only"
        print(f"{loaded.provider!s:<48} {counts}  ({1000 * loaded.seconds:.0f} ms)")
    for broken in registry.broken:
        print(f"{broken.provider!s:<48} BROKEN: {broken.reason}")
    for clash in registry.clashes():
        print(f"clash: {clash}")
