"""`harness train`: train defenses and keep their checkpoints, without attacking them."""

from __future__ import annotations

from pathlib import Path

import typer

from harness.cli import options
from harness.planning.plan import plan
from harness.planning.request import Request


def command(
    defense: options.Defenses,
    dataset: options.DatasetName = "digits",
    arch: options.Arch = "",
    recipe: options.RecipeName = "",
    train_seed: options.TrainSeed = 0,
    output: options.Output = Path("results"),
    data_root: options.DataRoot = Path("data"),
    device: options.Device = "auto",
    progress: options.Progress = "auto",
    plugin: options.Plugin = [],  # noqa: B006  typer reads the default, nothing changes it
    no_plugin: options.NoPlugin = [],  # noqa: B006
    strict_plugins: options.Strict = False,
) -> None:
    """Train defenses, keeping the last and the best checkpoint; `harness bench` finds them again.

    A training that was stopped goes on after its last finished epoch.
    """
    registry = options.registry(plugin, no_plugin, strict_plugins)
    request = Request(
        defenses=defense, attacks=["clean"], dataset=dataset, arch=arch, recipe=recipe, train_seed=train_seed
    )
    planned = plan(request, registry)

    from harness.cli.screen import Screen
    from harness.data.dataset import LoadedDataset
    from harness.evaluation.machine import make_reproducible, pick_device
    from harness.training.trainer import Trainer

    screen = Screen(progress)
    screen.header(registry, device)
    make_reproducible()
    data = LoadedDataset(planned.dataset, planned.dataset_name, data_root, planned.location)
    trainer = Trainer(
        registry=registry, data=data, folder=output / "checkpoints", device=pick_device(device), reporter=screen
    )
    with screen:
        for subject in planned.subjects:
            found = trainer.obtain(subject)
            screen.note(f"{subject.defense}: weights {found.origin}, sha256 {found.sha256[:12]} ({found.path})")
    raise typer.Exit(0)
