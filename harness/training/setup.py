"""The network that is to be trained, and the context of its training."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.data.dataset import LoadedDataset
from harness.errors import PluginError
from harness.evaluation.isolation import isolated
from harness.registry.names import plain
from harness.registry.registry import Registry
from harness.reporter import Reporter
from harness.training.context import TrainContext
from harness.training.peers import Peers
from harness.types import Architecture, Defense, Recipe, Subject


def build(subject: Subject, registry: Registry, data: LoadedDataset) -> nn.Module:
    """A freshly initialised network, the same for the same train seed, with what its defense adds to it."""
    arch = registry.entry(Architecture, subject.arch).spec
    defense = registry.entry(Defense, subject.defense).spec
    with isolated("init", subject.train_seed, collect=False):
        network: nn.Module = arch.build(data.shape, data.classes, **subject.arch_params)
        if defense.extend is not None:
            params = defense.of_training(plain_params(subject))
            network = defense.extend(network, shape=data.shape, classes=data.classes, **params)
    # Convolutions with few channels are twice as fast this way on a CPU, to images above all.
    return network.to(memory_format=torch.channels_last)


def budget(recipe: Recipe, data: LoadedDataset) -> tuple[Fraction, Fraction]:
    """The inner attack's eps and step: the recipe's, otherwise the dataset's.

    Raises:
        PluginError: where neither says an eps.
    """
    eps = recipe.inner.eps if recipe.inner.eps is not None else data.spec.budgets.get("linf")
    if eps is None:
        raise PluginError(f"recipe '{recipe.name}' has no eps and dataset '{data.name}' no linf budget")
    return eps, recipe.inner.step if recipe.inner.step is not None else eps * data.spec.step


def plain_params(subject: Subject) -> dict[str, Any]:
    """The defense's parameters as its functions take them."""
    return {name: plain(value) for name, value in subject.defense_params.items()}


def training_context(
    subject: Subject, recipe: Recipe, registry: Registry, data: LoadedDataset, folder: Path, device: torch.device,
    reporter: Reporter, network_of: Callable[[str], nn.Module],
) -> TrainContext:  # fmt: skip
    """What a defense's `step` and `train` are handed; `folder` is where checkpoints are kept.

    `network_of`: defense id -> a trained network beside the subject's own.
    """
    defense = registry.entry(Defense, subject.defense).spec
    eps, step = budget(recipe, data)
    peers = Peers(
        registry=registry, dataset=data.spec, data_sha256=data.part("train").sha256, seed=subject.train_seed,
        uses=defense.uses, network_of=network_of, train=partial(data.part, "train"),
    )  # fmt: skip
    return TrainContext(
        recipe=recipe, seed=subject.train_seed, train=data.part("train"), validation=data.part("validation"),
        eps=float(eps), step=float(step), device=device, on_batch=reporter.train_batch, on_epoch=reporter.train_epoch,
        note=reporter.note, peers=peers, cache_dir=folder.parent / "cache",
    )  # fmt: skip
