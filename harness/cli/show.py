"""`harness show NAME`: everything about one entry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

import typer

from harness.cli import options
from harness.errors import UnknownName, UsageError
from harness.registry.names import default_value, format_value, parse_name
from harness.registry.registry import NOUNS
from harness.types import Defaults, OneOf, Recipe, format_budget


def command(
    name: Annotated[str, typer.Argument(help="A defense, attack, dataset, architecture, threat kind or analysis.")],
    plugin: options.Plugin = [],  # noqa: B006  typer reads the default, nothing changes it
    no_plugin: options.NoPlugin = [],  # noqa: B006
) -> None:
    """Show parameters with their defaults, budgets, recipes, source and provider of one entry.

    A defense may be named as its row in a table is, as in "aalp (seed 1)".
    """
    registry = options.registry(plugin, no_plugin)
    bare = re.split(r" \(| on ", name)[0]
    try:
        entries = registry.named(parse_name(bare)[0].partition(":")[0])
    except UnknownName as error:
        if bare == name:
            raise
        raise UsageError(
            f"{error}\n'{name}' may be a row of a network of one's own, which records know alone"
        ) from None
    print("\n\n".join(_text(NOUNS[type(e.spec)], e.spec, str(e.provider)) for e in entries))


def _text(noun: str, spec: Any, provider: str) -> str:
    lines = [f"{noun} {spec.name}", f"  from         {provider}"]
    for field in fields(spec):
        value = getattr(spec, field.name)
        if field.name == "name" or callable(value) or value in ("", None, (), {}, False):
            continue
        if field.name == "votes" and not getattr(spec, "stochastic", True):
            continue
        if field.name == "about":
            continue
        told = _parameters(value, spec.about) if field.name == "params" else _values(field.name, value)
        lines += [f"  {field.name:<12} {line}" for line in told]
    return "\n".join(lines)


def _parameters(defaults: Defaults, about: Mapping[str, str]) -> list[str]:
    """Tell each parameter with its default, what it does, and the values that it may take."""
    given = [f"{name}={format_value(default_value(default))}" for name, default in defaults.items()]
    width = max(map(len, given))
    return [
        f"{text:<{width}}   {about.get(name, '')}{_choices(default)}".rstrip()
        for text, (name, default) in zip(given, defaults.items(), strict=True)
    ]


def _values(field: str, value: Any) -> list[str]:
    if field == "trial":
        return [", ".join(f"{key}={format_value(setting)}" for key, setting in value.items())]
    if field == "claims":
        return [", ".join(f"{attack} {accuracy:g} %" for attack, accuracy in value.items())]
    if field == "budgets":
        return [f"{kind}:{eps}" for kind, eps in value.items()]
    if field in ("recipes", "more_recipes"):
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
    return f" (one of {', '.join(format_value(v) for v in default.values)})" if isinstance(default, OneOf) else ""


def _recipe(recipe: Recipe) -> str:
    inner = recipe.inner
    eps = f" eps {format_budget(inner.eps)}" if inner.eps else ""
    return (
        f"{recipe.name}: {recipe.arch}, {recipe.epochs} epochs of batch {recipe.batch}, "
        f"{recipe.optimizer} {recipe.lr:g} {recipe.schedule}, "
        f"inner PGD-{inner.steps}{eps} step {inner.step or 'of the dataset'}, {recipe.source}"
    )
