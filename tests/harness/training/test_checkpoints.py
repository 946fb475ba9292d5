"""Checkpoints: trained once, reused when they match, refused when damaged, given by hand."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from harness.errors import CheckpointError
from harness.registry.hookspecs import hookimpl
from harness.storage import weights
from harness.types import TRAINING_EPS, Defense
from support.plugins import plain_step, toy_registry
from support.training import subject_and_data, trainer

REGISTRY = toy_registry()


def obtain(folder, name="plain", subject=None, **kwargs):
    found, data = subject_and_data(REGISTRY, name, **kwargs)
    return trainer(REGISTRY, data, folder).obtain(subject or found)


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
    subject, _ = subject_and_data(REGISTRY)
    others = [
        obtain(tmp_path, train_seed=1),
        obtain(tmp_path, "robust"),
        obtain(tmp_path, "robust[mix=0.5]"),
        obtain(tmp_path, subject=replace(subject, recipe=replace(subject.recipe, epochs=2))),
    ]
    assert [other.origin for other in others] == ["trained"] * 4
    assert len({base.path.parent, *(other.path.parent for other in others)}) == 5


def test_no_weights_depend_on_the_eps_that_is_deployed_with(tmp_path):
    subject, _ = subject_and_data(REGISTRY)
    recipe = subject.recipe
    first, again = (
        obtain(tmp_path, subject=replace(subject, recipe=replace(recipe, deploy_eps=eps)))
        for eps in (None, Fraction(1, 9))
    )
    assert (first.origin, again.origin) == ("trained", "reused")
    card = json.loads((first.path.parent / "card.json").read_bytes())
    assert card["recipe"].keys() == {
        "name", "arch", "epochs", "batch", "lr", "optimizer", "momentum", "weight_decay", "schedule", "milestones",
        "decay", "augment", "inner", "selection", "source",
    }  # fmt: skip
    assert card["recipe"]["inner"].keys() == {"steps", "eps", "step", "start", "mode", "ramp_epochs"}


class Dims:
    """Trains with one parameter and deploys with two others."""

    @hookimpl
    def harness_defenses(self):
        def step(model, x, y, ctx, *, scale):
            return scale * plain_step(model, x, y, ctx)

        def wrap(network, *, scale, share, strength):
            return torch.nn.Sequential(TimesShare(1 - share - float(Fraction(strength))), network)

        params = {"scale": 1.0, "share": 0.0, "strength": TRAINING_EPS}
        yield Defense(name="dims", step=step, wrap=wrap, params=params, deployment=("share", "strength"))


class TimesShare(torch.nn.Module):
    def __init__(self, share):
        super().__init__()
        self.register_buffer("share", torch.tensor(share))

    def forward(self, x):
        return x * self.share


def test_parameters_of_deployment_do_not_train_again(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "REGISTRY", toy_registry(Dims()))
    first, dimmed, again, other = (
        obtain(tmp_path, name) for name in ("dims", "dims[share=0.5]", "dims[share=0.5,strength=0]", "dims[scale=2]")
    )
    assert [found.origin for found in (first, dimmed, again, other)] == ["trained", "reused", "reused", "trained"]
    assert first.path == dimmed.path == again.path
    assert json.loads((first.path.parent / "card.json").read_bytes())["defense_params"] == {"scale": 1.0}
    assert first.sha256 == dimmed.sha256
    assert len({first.deployed_sha256, dimmed.deployed_sha256, again.deployed_sha256}) == 3
    assert dimmed.model[0].share < first.model[0].share


def test_the_best_checkpoint_is_attacked_where_the_recipe_says_so(tmp_path):
    subject, _ = subject_and_data(REGISTRY)
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
    subject, data = subject_and_data(REGISTRY)
    torch.manual_seed(5)
    first = trainer(REGISTRY, data).build(subject)
    torch.manual_seed(6)
    second = trainer(REGISTRY, data).build(subject)
    other = trainer(REGISTRY, data).build(replace(subject, train_seed=1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight)
