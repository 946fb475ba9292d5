"""`harness check NAME`: the contract tests, for one's own plugin."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli import options


def command(
    name: Annotated[str, typer.Argument(help="An attack, defense, dataset, architecture or analysis.")],
    plugin: options.Plugin = [],  # noqa: B006  typer reads the default, nothing changes it
    no_plugin: options.NoPlugin = [],  # noqa: B006
) -> None:
    """Run the contract tests on one entry: small networks, no download, seconds. Exit code 3 if one fails."""
    registry = options.registry(plugin, no_plugin)

    from harness.conformance import check

    failed = 0
    for result in check(name, registry):
        print(f"{result.state:<14} {result.name:<34} {result.detail}".rstrip())
        failed += result.state == "failed"
    raise typer.Exit(3 if failed else 0)
