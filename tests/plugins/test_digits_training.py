"""Every installed defense that trains: one epoch on digits, kept, found again, and loaded from a file, bit for bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.data.dataset import LoadedDataset
from harness.networks import tensors_sha256
from harness.planning.request import Request
from harness.planning.subjects import find_subjects
from harness.registry import discovery
from harness.reporter import Reporter
from harness.training.checkpoints import Checkpoint
from harness.training.trainer import Trainer
from harness.types import Dataset, Defense
from support.training import CPU

REGISTRY = discovery.discover()
DIGITS = REGISTRY.get(Dataset, "digits").spec
TRAINED = [entry.spec.name for entry in REGISTRY.entries(Defense) if entry.spec.step or entry.spec.train]


@pytest.fixture(scope="module")
def data() -> LoadedDataset:
    return LoadedDataset(DIGITS, "digits", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that what several defenses build on is made once."""
    return tmp_path_factory.mktemp("results") / "checkpoints"


def logits(found: Checkpoint, data: LoadedDataset) -> torch.Tensor:
    x, _ = data.part("test").batch(slice(None), CPU)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)  # a random defense draws the same each time
        return found.model(x)


@pytest.mark.parametrize("name", TRAINED)
def test_one_epoch_on_digits_is_kept_and_loaded_bit_for_bit(name, data, folder):
    (subject,) = find_subjects(name, DIGITS, Request(defenses=[name]), REGISTRY)
    subject = replace(subject, recipe=replace(subject.recipe, epochs=1))
    trainer = Trainer(registry=REGISTRY, data=data, folder=folder, device=CPU, reporter=Reporter())
    trained, reused = (trainer.obtain(subject) for _ in ("trained", "reused"))
    given = trainer.obtain(replace(subject, weights=str(trained.path)))
    assert (trained.origin, reused.origin, given.origin) == ("trained", "reused", "given")
    assert trained.sha256 == reused.sha256 == given.sha256
    assert trained.sha256 != tensors_sha256(trainer.build(subject).state_dict())
    first = logits(trained, data)
    assert first.shape == (500, 10)
    assert torch.isfinite(first).all()
    assert torch.equal(logits(reused, data), first)
    assert torch.equal(logits(given, data), first)


def test_every_family_of_defenses_is_among_them():
    assert {"raw", "pgd_at", "alp", "trades", "mart", "fgsm_at", "fast_at", "aalp", "raw_gd"} <= set(TRAINED)
