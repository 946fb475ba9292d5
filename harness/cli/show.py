"""`harness show NAME`: everything about one entry."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any

import typer

from harness.cli import options
from harness.registry.names import default_value, format_value, parse_name
from harness.registry.registry import NOUNS
from harness.types import OneOf, Recipe, format_budget


def command(
    name: Annotated[str, typer.Argument(help="A defense, attack, dataset, architecture, threat kind or analysis.")],
    plugin: options.Plugin = [],  # noqa: B006  typer reads the default, nothing changes it
    no_plugin: options.NoPlugin = [],  # noqa: B006
) -> None:
    """Show parameters with their defaults, budgets, recipes, source and provider of one entry."""
    registry = options.registry(plugin, no_plugin)
    entries = registry.named(parse_name(name)[0].partition(":")[0])
    print("\n\n".join(_text(NOUNS[type(e.spec)], e.spec, str(e.provider)) for e in entries))


def _text(noun: str, spec: Any, provider: str) -> str:
    lines = [f"{noun} {spec.name}", f"  from         {provider}"]
    for field in fields(spec):
        value = getattr(spec, field.name)
        if field.name == "name" or callable(value) or value in ("", None, (), {}, False):
            continue
        if field.name == "votes" and not getattr(spec, "stochastic", True):
            continue
        lines += [f"  {field.name:<12} {line}" for line in _values(field.name, value)]
    return "\n".join(lines)


def _values(field: str, value: Any) -> list[str]:
    if field == "trial":
        return [", ".join(f"{key}={format_value(setting)}" for key, setting in value.items())]
    if field == "params":
        return [f"{key}={format_value(default_value(default))}{_choices(default)}" for key, default in value.items()]
    if field == "claims":
        return [", ".join(f"{attack} {accuracy:g} %" for attack, accuracy in value.items())]
    if field == "budgets":
        return [f"{kind}:{eps}" for kind, eps in value.items()]
    if field == "recipes":
        by_dataset = value if isinstance(value, dict) else {"": value}
        return [
            f"{dataset}{', ' * bool(dataset)}{_recipe(recipe)}"
            for dataset, found in by_dataset.items()
            for recipe in found
        ]
    if field == "stand_ins":
        return [f"{stand_in.name} ({stand_in.knowledge}): {stand_in.summary}" for stand_in in value]
    return [", ".join(str(part) for part in value) if isinstance(value, tuple) else str(value)]


def _choices(default: Any) -> str:
    return f"   (one of {', '.join(format_value(v) for v in default.values)})" if isinstance(default, OneOf) else ""


def _recipe(recipe: Recipe) -> str:
    inner = recipe.inner
    eps = f" eps {format_budget(inner.eps)}" if inner.eps else ""
    return (
        f"{recipe.name}: {recipe.arch}, {recipe.epochs} epochs of batch {recipe.batch}, "
        f"{recipe.optimizer} {recipe.lr:g} {recipe.schedule}, "
        f"inner PGD-{inner.steps}{eps} step {inner.step or 'of the dataset'}, {recipe.source}"
    )
