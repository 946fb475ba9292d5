"""What every dataset and every architecture is held to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from harness.conformance.report import CheckResult, NotApplicable, run_checks
from harness.data.dataset import LoadedDataset
from harness.errors import DataError, UsageError
from harness.networks import Classifier
from harness.registry.names import default_value
from harness.types import Architecture, Dataset

SHAPES = ((1, 8, 8), (1, 28, 28), (3, 32, 32))
CLASSES = 7


def check_dataset(dataset: Dataset, root: Path = Path("data")) -> list[CheckResult]:
    """Hold a dataset to its contract.

    Not applicable where it needs a location, or cannot be loaded from `root`. Its `load` may download files.
    """
    return run_checks((dataset, root), DATASET_CONTRACTS)


def check_architecture(arch: Architecture) -> list[CheckResult]:
    """Hold an architecture to its contract, at the first size of 8, 28 and 32 pixels that it can be built for."""
    return run_checks(arch, ARCHITECTURE_CONTRACTS)


def _loaded(dataset: Dataset, root: Path) -> LoadedDataset:
    if dataset.located:
        raise NotApplicable("it needs a location")
    loaded = LoadedDataset(dataset, dataset.name, root)
    try:
        loaded.part("test")
    except DataError as error:
        raise NotApplicable(str(error)) from error
    return loaded


def _loads(case: tuple[Dataset, Path]) -> None:
    dataset, loaded = case[0], _loaded(*case)
    for name in ("train", "validation", "test"):
        split = loaded.part(name).split
        assert split.pixels.shape[1:] == dataset.shape, f"{name} images are {split.pixels.shape[1:]}"
        assert set(np.unique(split.labels)) == set(range(dataset.classes or 0)), f"{name} lacks a class"
    hashes = {name: loaded.part(name).sha256 for name in ("train", "validation", "test")}
    assert len(set(hashes.values())) == 3, "two parts are the same"
    assert next(iter(dataset.budgets), None), "it declares no budget"


def _same_twice(case: tuple[Dataset, Path]) -> None:
    first, second = _loaded(*case), _loaded(*case)
    for name in ("train", "validation", "test"):
        assert first.part(name).sha256 == second.part(name).sha256, f"{name} differs between two loads"


DATASET_CONTRACTS: dict[str, Callable[[tuple[Dataset, Path]], None]] = {
    "loads what it declares": _loads,
    "same twice": _same_twice,
}


def _built(arch: Architecture) -> tuple[Classifier, torch.Tensor]:
    params = {name: default_value(default) for name, default in arch.params.items()}
    problems = []
    for shape in SHAPES:
        try:
            model = arch.build(shape, CLASSES, **params).eval()
            x = torch.rand(6, *shape, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                model(x)
        except (RuntimeError, UsageError) as error:
            problems.append(f"{shape}: {error}")
            continue
        assert isinstance(model, Classifier), "it must build a harness.networks.Classifier"
        return model, x
    raise AssertionError("; ".join(problems))


def _head(arch: Architecture) -> None:
    model, x = _built(arch)
    with torch.no_grad():
        features, logits = model.features(x), model(x)
    assert logits.shape == (len(x), CLASSES), f"logits are {tuple(logits.shape)}"
    assert features.shape == (len(x), model.head.in_features), f"features are {tuple(features.shape)}"
    assert torch.equal(model.head(features), logits), "the logits are not the head's answer to the features"


def _stages(arch: Architecture) -> None:
    model, x = _built(arch)
    with torch.no_grad():
        stages = model.stages(x)
    assert stages, "it names no stages"
    assert tuple(stages) == model.stage_names, f"stages are {tuple(stages)}"
    assert all(len(output) == len(x) for output in stages.values()), "a stage changes the number of images"


def _alone(arch: Architecture) -> None:
    model, x = _built(arch)
    with torch.no_grad():
        together, alone = model(x), torch.cat([model(x[i : i + 1]) for i in range(len(x))])
    assert (together - alone).abs().amax() <= 1e-4, "an image's logits depend on the images beside it"


def _differentiable(arch: Architecture) -> None:
    model, x = _built(arch)
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(model(x).square().sum(), x)
    assert bool((gradient.flatten(1).abs().sum(dim=1) > 0).all()), "no gradient reaches the image"


ARCHITECTURE_CONTRACTS: dict[str, Callable[[Architecture], None]] = {
    "logits are head(features)": _head,
    "names its stages": _stages,
    "same in a batch and alone": _alone,
    "gradient reaches the image": _differentiable,
}
