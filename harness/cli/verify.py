"""`harness verify`: do the numbers of a run or a board still stand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options
from harness.errors import BoardMismatch, NothingSelected, UsageError


def command(
    path: Annotated[Path, typer.Argument(help="A run folder, such as results/RUN_ID, or a board's folder.")],
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Judge every witness again: needs the weights and the dataset.")
    ] = False,
    sample: Annotated[
        int, typer.Option("--sample", help="Attack so many random shards again, and compare: needs the same.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Which shards the sample has.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images judged at once.")] = 250,
    model: Annotated[
        str,
        typer.Option("--model", help="The network of a run of --model, as file.py:function: records do not hold it."),
    ] = "",
    weights: Annotated[str, typer.Option("--weights", help="Its weights, with --model.")] = "",
    sha256: Annotated[str, typer.Option("--sha256", help="Of the bytes of --weights.")] = "",
    dataset: Annotated[
        str, typer.Option("--dataset", help="Where images are that records do not hold: folder:PATH.")
    ] = "",
    data_root: options.DataRoot = Path("data"),
    device: options.Device = "auto",
    plugin: options.Plugin = [],  # noqa: B006  typer reads the default, nothing changes it
    no_plugin: options.NoPlugin = [],  # noqa: B006
) -> None:
    """Check records, tables and witnesses; exit code 4 where something does not hold, naming file and example.

    Exit code 5 where nothing could be judged or attacked again, 3 where a part of it could not. A board that says that
    it does without weights (it names them below its table) is judged as far as it goes.

    A witness is the adversarial image that broke an example, kept for threat models with a norm as budget. Exempt are
    those whose verifier needs evidence beside the image (flow, wasserstein), those without a budget, and random
    defenses. Each is checked in float64 against its threat model, and with one forward of the network.

    A shard that is attacked again must give the identity and the verdicts that its record says, but for one image in
    500, and other numbers within 2 %, as processors round differently. Left out are attacks from a surrogate, random
    defenses, and networks whose weights are not kept; the recipe is what the record says, not checked.
    """
    from harness.verification.verify import verify

    if batch_size < 1:
        raise typer.BadParameter("must be at least 1", param_hint="--batch-size")
    if sample < 0:
        raise typer.BadParameter("must be at least 0", param_hint="--sample")
    if (weights or sha256) and not model:
        raise UsageError("--weights, --sha256: go with --model")
    result = verify(path)
    if rescore or sample:
        from harness.evaluation.machine import pick_device
        from harness.verification.rebuild import Given, Rebuilder

        registry = options.registry(plugin, no_plugin)
        given = Given(model=model, weights=weights, sha256=sha256, dataset=dataset)
        networks = Rebuilder(result.weights, result.problems, registry, data_root, pick_device(device), given)
    if rescore:
        from harness.verification.rescore import rescore as judge_again

        judge_again(result, networks, batch_size)
    if sample:
        from harness.verification.sample import recompute

        for line in recompute(result, networks, sample, seed, batch_size):
            print(line, flush=True)
    print(f"{path}: {len(result.records)} records")
    for row in result.rows:
        print(row)
    if rescore or sample:
        result.problems += networks.unfit()
    if result.problems:
        raise BoardMismatch(f"{len(result.problems)} problem(s)\n" + "\n".join(result.problems))
    number = sum(len(row.witnesses.found) for row in result.rows if row.witnesses)
    if rescore and not result.judged:
        why = "\n".join(result.unjudged) or ("no weights are kept here" if number else "no witnesses are kept here")
        raise NothingSelected(f"{path}: none of {number} witnesses was judged again\n{why}")
    judged = f", {result.judged} judged again and agree" if rescore else ""
    print(f"no problems: {number} witnesses{judged}" if number else "no problems: no witnesses are kept here")
    if result.unjudged:
        missed = "\n".join(result.unjudged)
        print(f"error: {len(result.unjudged)} not judged again\n{missed}", file=sys.stderr)
        raise typer.Exit(3)
