"""`harness bench`: run the matrix, write records and tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options
from harness.running.entry import prepare
from harness.running.lacking import NothingLacking

DECIDED = (
    "defense", "model", "attacks", "analyses", "threat", "limit", "arch", "recipe", "weights", "sha256", "name",
    "seed", "train_seed",
)  # fmt: skip
"""Options that a board decides, so that they cannot be given beside `--board`."""


def command(
    ctx: typer.Context,
    defense: options.Defenses = [],  # noqa: B006  typer reads the default, nothing changes it
    attacks: Annotated[
        list[str],
        typer.Option(
            "--attacks",
            "-a",
            help="Names, globs, comma lists or groups (all, standard, linf, fast ...; harness list groups).",
        ),
    ] = ["all"],  # noqa: B006
    analyses: Annotated[
        list[str], typer.Option("--analyses", help="Measurements besides accuracy: names or all; none by default.")
    ] = [],  # noqa: B006
    dataset: options.DatasetName = "digits",
    threat: Annotated[
        list[str], typer.Option("--threat", help="Budget, such as linf:8/255; replaces its own kind's; repeatable.")
    ] = [],  # noqa: B006
    limit: Annotated[
        float | None, typer.Option("--limit", help="First n test images of a fixed order, or a share.")
    ] = None,
    arch: options.Arch = "",
    recipe: options.RecipeName = "",
    model: Annotated[
        str,
        typer.Option(
            "--model", help="Your own network: package.module:function or file.py:function, which returns it."
        ),
    ] = "",
    weights: Annotated[
        str, typer.Option("--weights", help="A .safetensors file, instead of training; any state dict with --model.")
    ] = "",
    name: Annotated[str, typer.Option("--name", help="What to call the network of --model in tables.")] = "",
    board: Annotated[
        str,
        typer.Option("--board", help="Run what a board lacks, or what its rows of --dataset lack: its folder or name."),
    ] = "",
    sha256: Annotated[str, typer.Option("--sha256", help="Of the bytes of --weights, with --model.")] = "",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the attacks.")] = 0,
    train_seed: options.TrainSeed = 0,
    output: options.Output = Path("results"),
    data_root: options.DataRoot = Path("data"),
    device: options.Device = "auto",
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Images attacked at once; never changes verdicts.")
    ] = 250,
    time_limit: Annotated[
        str,
        typer.Option("--time-limit", help="For each attack run on each defense, as 90s, 10m or 2h; none by default."),
    ] = "",
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first cell that fails.")] = False,
    progress: options.Progress = "auto",
    plugin: options.Plugin = [],  # noqa: B006
    no_plugin: options.NoPlugin = [],  # noqa: B006
    strict_plugins: options.Strict = False,
) -> None:
    """Train or load each defense, attack it, judge every image, write records and tables.

    The same command again continues where it stopped: finished epochs and finished shards are kept.
    """
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    given = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    if board and (left_out := [f"--{name.replace('_', '-')}" for name in DECIDED if name in given]):
        raise typer.BadParameter(
            f"a board says itself what is measured; leave {', '.join(left_out)} out", param_hint="--board"
        )
    asked = dataset if "dataset" in given or not board else None
    try:
        prepared = prepare(
            defense=defense, attacks=attacks, model=model or None, name=name, dataset=asked, threat=threat, limit=limit,
            analyses=analyses, arch=arch, recipe=recipe, weights=weights, sha256=sha256, board=board, seed=seed,
            train_seed=train_seed, output=output, data_root=data_root, device=device, batch_size=batch_size,
            time_limit=time_limit, fail_fast=fail_fast, plugin=plugin, no_plugin=no_plugin,
            strict_plugins=strict_plugins, warn=options.warn,
        )  # fmt: skip
    except NothingLacking as nothing:
        print(nothing, file=sys.stderr)
        raise typer.Exit(0) from None

    from harness.cli.result import result
    from harness.cli.screen import Screen

    screen = Screen(progress)
    screen.header(prepared.registry, device)
    failed = False
    for one in prepared.plans:
        screen.plan(one, output)
        with screen:
            outcome, report = prepared.run(one, screen)
        result(screen, outcome, report)
        if outcome.interrupted:
            raise typer.Exit(130)
        failed |= any(failure.state.counts_as_failure for failure in outcome.failures)
    raise typer.Exit(3 if failed else 0)
