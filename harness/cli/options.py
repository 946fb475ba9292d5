"""Flags that several commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.registry.registry import Registry
from harness.running.entry import find_plugins

PIPED_WIDTH = 200
"""Columns of a table that goes into a file or a pipe."""

Defenses = Annotated[
    list[str],
    typer.Option("--defense", "-d", help="Names, globs or comma lists; parameters in brackets: aalp[version=1]."),
]
DatasetName = Annotated[str, typer.Option("--dataset", help="A dataset, or folder:PATH.")]
Arch = Annotated[str, typer.Option("--arch", help="Network, instead of the recipe's.")]
RecipeName = Annotated[str, typer.Option("--recipe", help="How to train; harness show DATASET lists them.")]
TrainSeed = Annotated[int, typer.Option("--train-seed", help="Seed of the training.")]
Output = Annotated[
    Path, typer.Option("--output", "-o", envvar="HARNESS_OUTPUT", help="Folder for runs and checkpoints.")
]
DataRoot = Annotated[Path, typer.Option("--data-root", envvar="HARNESS_DATA_ROOT", help="Folder with the datasets.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
Plugin = Annotated[list[Path], typer.Option("--plugin", help="A plugin file, for a quick trial; repeatable.")]
NoPlugin = Annotated[list[str], typer.Option("--no-plugin", help="Leave a plugin or distribution out; repeatable.")]
Strict = Annotated[bool, typer.Option("--strict-plugins", help="Fail if any plugin is broken or clashes.")]
Progress = Annotated[str, typer.Option("--progress", help="auto, plain (lines) or none.")]


def registry(plugin: list[Path], no_plugin: list[str], strict: bool = False, quiet: bool = False) -> Registry:
    """Discover what is installed, and warn about what is broken or clashes, unless `quiet`.

    Raises:
        PluginError: with `strict`, for any of them.
    """
    return find_plugins(plugin, no_plugin, strict, (lambda line: None) if quiet else warn)


def warn(line: str) -> None:
    """Print a warning on the error stream."""
    print(f"warning: {line}", file=sys.stderr)
