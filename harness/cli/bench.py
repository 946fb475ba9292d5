"""`harness bench`: run the matrix, write records and tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options
from harness.errors import UsageError
from harness.planning.plan import Plan, plan
from harness.planning.request import Request
from harness.registry.registry import Registry

DECIDED = (
    "defense", "model", "attacks", "analyses", "threat", "limit", "arch", "recipe", "weights", "sha256", "seed",
    "train_seed",
)  # fmt: skip
"""What a board says itself."""


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
    if not (defense or model or board):
        raise typer.BadParameter("name at least one, or give --model or --board", param_hint="--defense")
    if sha256 and not (model and weights):
        raise typer.BadParameter("goes with --model and --weights", param_hint="--sha256")
    if (arch or recipe) and not defense:
        raise typer.BadParameter("go with --defense: --model brings its own network", param_hint="--arch, --recipe")
    registry = options.registry(plugin, no_plugin, strict_plugins)
    own = None
    if model:
        from harness.models.own_model import own_model

        own = own_model(model, weights, sha256)
        registry = own.join(registry)
    request = Request(
        defenses=[*defense, own.name] if own else defense, attacks=attacks, dataset=dataset, threats=threat, arch=arch,
        recipe=recipe, weights="" if own else weights, limit=limit, seed=seed, train_seed=train_seed, analyses=analyses,
    )  # fmt: skip
    if board:
        planned = _lacking(board, [dataset] if "dataset" in given else [], output, registry)
    else:
        planned = [plan(request, registry)]
    limit_s = options.seconds(time_limit) if time_limit else None
    if batch_size < 1:
        raise typer.BadParameter("must be at least 1", param_hint="--batch-size")
    if own:
        own.check(planned[0].dataset, train_seed)

    from harness.cli.result import result
    from harness.cli.screen import Screen
    from harness.evaluation.attempt import NOT_APPLICABLE
    from harness.running.outcome import Settings
    from harness.running.run import bench

    screen = Screen(progress)
    screen.header(registry, device)
    settings = Settings(
        output=output, data_root=data_root, device=device, batch_size=batch_size,
        time_limit=limit_s, fail_fast=fail_fast,
    )  # fmt: skip
    failed = False
    for one in planned:
        screen.plan(one, output)
        with screen:
            outcome = bench(one, registry, settings, screen)
        result(screen, outcome, one.skips)
        if outcome.interrupted:
            raise typer.Exit(130)
        failed |= any(failure.state != NOT_APPLICABLE for failure in outcome.failures)
    raise typer.Exit(3 if failed else 0)


def _lacking(board: str, datasets: Sequence[str], output: Path, registry: Registry) -> list[Plan]:
    """What a board lacks, of these datasets or of all; its records are put where the runs find them.

    Raises:
        UsageError: where there is no such board.
    """
    from harness.leaderboard import definition as definitions
    from harness.leaderboard.missing import lacking, requests
    from harness.results.rows import rows
    from harness.results.sources import read_records
    from harness.storage import runs

    folder = Path(board) if Path(board).is_dir() else Path("leaderboards") / board
    definition = definitions.read(folder)
    if definition is None:
        raise UsageError(f"--board {board}: {folder} has no {definitions.FILE}")
    records = read_records(folder)
    measured = rows(records)
    planned = [lacking(plan(one, registry), measured) for one in requests(definition, measured, datasets)]
    found = [one for one in planned if one.subjects]
    if not found:
        of = f" on {', '.join(datasets)}" if datasets else ""
        print(f"nothing to do: every cell of {folder}{of} is measured", file=sys.stderr)
        raise typer.Exit(0)
    runs.lend(output, f"board-{folder.name}", records)
    return found
