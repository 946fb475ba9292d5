"""`harness verify`: do the numbers of a run or a board still stand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options
from harness.errors import BoardMismatch


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
    data_root: options.DataRoot = Path("data"),
    device: options.Device = "auto",
    plugin: options.Plugin = [],  # noqa: B006  typer reads the default, nothing changes it
    no_plugin: options.NoPlugin = [],  # noqa: B006
) -> None:
    """Check records, tables and witnesses; exit code 4 where something does not hold, naming file and example.

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
    result = verify(path)
    if rescore or sample:
        from harness.evaluation.machine import pick_device
        from harness.verification.rebuild import Rebuilder

        registry = options.registry(plugin, no_plugin)
        networks = Rebuilder(result.weights, result.problems, registry, data_root, pick_device(device))
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
    if result.problems:
        raise BoardMismatch(f"{len(result.problems)} problem(s)\n" + "\n".join(result.problems))
    kept = [row for row in result.rows if row.witnesses]
    number = sum(len(row.witnesses.found) for row in kept if row.witnesses)
    judged = f", {sum(row.agree or 0 for row in kept)} judged again and agree" if rescore else ""
    print(f"no problems: {number} witnesses{judged}" if kept else "no problems: no witnesses are kept here")
