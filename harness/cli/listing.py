"""`harness list`: what is installed."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from harness.cli import options
from harness.errors import UnknownName
from harness.planning.selection import groups
from harness.registry.names import format_name, format_value
from harness.registry.registry import Registry
from harness.results.audit.meaning import MEANING
from harness.types import Analysis, Architecture, Attack, Dataset, Defense, ThreatKind

TOPICS = (
    "defenses", "attacks", "datasets", "architectures", "threats", "analyses", "groups", "recipes", "flags",
)  # fmt: skip


def command(
    topic: Annotated[str, typer.Argument(help=f"One of: {', '.join(TOPICS)}; all of them by default.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    plugin: options.Plugin = [],  # noqa: B006  typer reads the default, nothing changes it
    no_plugin: options.NoPlugin = [],  # noqa: B006
) -> None:
    """List what can be named on the command line, and who provides it."""
    registry = options.registry(plugin, no_plugin)
    if topic and topic not in TOPICS:
        raise UnknownName("topic", topic, TOPICS)
    tables = {name: lines(name, registry) for name in TOPICS if topic in ("", name)}
    if as_json:
        print(json.dumps(tables, indent=1))
        return

    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False)
    if not console.is_terminal:
        console.width = options.PIPED_WIDTH
    for name, found in tables.items():
        table = Table(title=f"{name} ({len(found)})", title_justify="left", box=None, pad_edge=False)
        for column in found[0] if found else ():
            table.add_column(column, overflow="fold", no_wrap=column in ("name", "from", "access", "recipe"))
        for line in found:
            table.add_row(*line.values())
        console.print(table, "")


def lines(topic: str, registry: Registry) -> list[dict[str, str]]:
    """List one topic as rows of text, column -> text; attacks cheapest first, those that never run last."""
    attacks = sorted(registry.entries(Attack), key=lambda entry: (bool(entry.spec.defect), entry.spec.cost))
    if topic == "attacks":
        return [
            {
                "name": e.spec.name, "threats": ", ".join(e.spec.threats), "access": e.spec.access,
                "groups": ", ".join(e.spec.groups), "from": e.provider.plugin,
                "what": f"not usable: {e.spec.defect}" if e.spec.defect else e.spec.summary,
            }
            for e in attacks
        ]  # fmt: skip
    if topic == "datasets":
        return [
            {
                "name": e.spec.name + (":PATH" if e.spec.located else ""),
                "budgets": ", ".join(f"{kind}:{eps}" for kind, eps in e.spec.budgets.items()),
                "recipes": ", ".join(recipe.name for recipe in e.spec.recipes),
                "from": e.provider.plugin, "what": e.spec.summary,
            }
            for e in registry.entries(Dataset)
        ]  # fmt: skip
    if topic == "groups":
        members: dict[str, list[str]] = {}
        for entry in attacks:
            for group, params in groups(entry.spec) if not entry.spec.defect else ():
                budget = f" at {entry.spec.budgets[group]}" if group in entry.spec.budgets else ""
                members.setdefault(group, []).append(format_name(entry.spec.name, params) + budget)
        return [{"group": group, "attacks": ", ".join(names)} for group, names in sorted(members.items())]
    if topic == "recipes":
        return [
            {
                "recipe": recipe.name, "dataset": dataset.spec.name, "network": recipe.arch,
                "epochs": str(recipe.epochs),
                "optimizer": f"{recipe.optimizer} {format_value(recipe.lr)}", "source": recipe.source,
            }
            for dataset in registry.entries(Dataset)
            for recipe in dataset.spec.recipes
        ]  # fmt: skip
    if topic == "analyses":
        return [
            {
                "name": e.spec.name, "of": ", ".join(e.spec.only_of) or "every defense",
                "from": e.provider.plugin, "what": e.spec.summary,
            }
            for e in registry.entries(Analysis)
        ]  # fmt: skip
    if topic == "flags":
        return [{"name": name, "what": meaning} for name, meaning in sorted(MEANING.items())]
    kinds = {"defenses": Defense, "architectures": Architecture, "threats": ThreatKind}
    return [
        {"name": entry.spec.name, "from": entry.provider.plugin, "what": entry.spec.summary}
        for entry in registry.entries(kinds[topic])
    ]
