"""Checkpoints: trained once, reused when they match, refused when damaged, given by hand."""

import json
from dataclasses import replace

import pytest
import torch

from harness import checkpoints, weights
from harness.data import LoadedDataset
from harness.errors import CheckpointError
from harness.plan import plan
from harness.reporter import Reporter
from harness.request import Request
from toy_plugins import toy_registry

REGISTRY = toy_registry()
CPU = torch.device("cpu")


def subject_and_data(name="plain", **kwargs):
    planned = plan(Request(defenses=[name], attacks=["unchanged"], dataset="toy", **kwargs), REGISTRY)
    return planned.subjects[0], LoadedDataset(planned.dataset, planned.dataset_name, None)


def obtain(folder, name="plain", subject=None, **kwargs):
    found, data = subject_and_data(name, **kwargs)
    return checkpoints.obtain(subject or found, REGISTRY, data, folder, CPU, Reporter())


def test_trained_then_reused_with_a_card_that_says_everything(tmp_path):
    first, second = obtain(tmp_path), obtain(tmp_path)
    assert (first.origin, second.origin) == ("trained", "reused")
    assert first.sha256 == second.sha256
    card = json.loads((first.path.parent / "card.json").read_bytes())
    assert card["tensors_sha256"]["last"] == first.sha256
    assert {"defense", "recipe", "data_sha256", "train_seed", "versions", "history", "selection"} <= card.keys()
    assert {p.name for p in first.path.parent.iterdir()} == {"card.json", "last.safetensors", "best.safetensors"}


def test_what_decides_a_training_decides_its_checkpoint(tmp_path):
    base = obtain(tmp_path)
    subject, _ = subject_and_data()
    others = [
        obtain(tmp_path, train_seed=1),
        obtain(tmp_path, "robust"),
        obtain(tmp_path, "robust[mix=0.5]"),
        obtain(tmp_path, subject=replace(subject, recipe=replace(subject.recipe, epochs=2))),
    ]
    assert [other.origin for other in others] == ["trained"] * 4
    assert len({base.path.parent, *(other.path.parent for other in others)}) == 5


def test_the_best_checkpoint_is_attacked_where_the_recipe_says_so(tmp_path):
    subject, _ = subject_and_data()
    best = obtain(tmp_path, subject=replace(subject, recipe=replace(subject.recipe, selection="best")))
    assert best.path.name == "best.safetensors"


def test_weights_that_are_not_the_cards_are_refused(tmp_path):
    first = obtain(tmp_path)
    tensors = weights.read(first.path)
    tensors["head.bias"] += 1e-3
    weights.write(first.path, tensors)
    with pytest.raises(CheckpointError, match="not those of its card"):
        obtain(tmp_path)


def test_given_weights_are_used_and_must_fit(tmp_path):
    first = obtain(tmp_path)
    given = obtain(tmp_path, weights=str(first.path))
    assert given.origin == "given"
    assert given.sha256 == first.sha256
    other = tmp_path / "other.safetensors"
    weights.write(other, {"head.bias": torch.zeros(9)})
    with pytest.raises(CheckpointError, match="do not fit TinyNet"):
        obtain(tmp_path, weights=str(other))


def test_the_network_starts_from_the_train_seed_alone():
    subject, data = subject_and_data()
    torch.manual_seed(5)
    first = checkpoints.build(subject, REGISTRY, data)
    torch.manual_seed(6)
    second = checkpoints.build(subject, REGISTRY, data)
    other = checkpoints.build(replace(subject, train_seed=1), REGISTRY, data)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight)
