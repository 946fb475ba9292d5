"""Trainers of toy networks, and whom they train."""

from pathlib import Path

import torch

from harness.conformance import toys
from harness.data.dataset import LoadedDataset
from harness.registry.registry import Registry
from harness.reporter import Reporter
from harness.training.context import TrainContext
from harness.training.trainer import Trainer
from harness.types import Recipe, Subject
from support.bench import plan_toy

CPU = torch.device("cpu")


def subject_and_data(registry: Registry, defense: str = "plain", **kwargs: object) -> tuple[Subject, LoadedDataset]:
    """A defense as the toy dataset trains it, and that dataset."""
    planned = plan_toy(registry, defenses=[defense], attacks=["unchanged"], **kwargs)
    return planned.subjects[0], LoadedDataset(planned.dataset, planned.dataset_name, None)


def trainer(registry: Registry, data: LoadedDataset, folder: Path | None = None) -> Trainer:
    return Trainer(registry=registry, data=data, folder=folder, device=CPU, reporter=Reporter())


def toy_recipe(**changes: object) -> Recipe:
    """A recipe of one epoch."""
    return Recipe(**{"name": "toy", "arch": "toy", "epochs": 1, "batch": 32, "lr": 1e-3, **changes})


def training_context(recipe: Recipe | None = None, *, eps: float = 0.1, step: float, **changes: object) -> TrainContext:
    """What a defense is handed when it trains on toy images."""
    usual = {"seed": 0, "train": toys.toy_part(), "validation": toys.toy_part(n=32, seed=4), "device": CPU}
    return TrainContext(recipe=recipe or toy_recipe(), eps=eps, step=step, **{**usual, **changes})


class PreparedContext:
    """A training context whose perturbation is prepared."""

    def __init__(self, x_adv: torch.Tensor, eps: float = 0.1) -> None:
        self.x_adv, self.eps = x_adv, eps

    def perturb(self, model, x, y, loss=None, **changes):
        return self.x_adv
