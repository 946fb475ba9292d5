"""AALP's consistent and inconsistent sets against a count image by image, with logits and an attack made by hand."""

import math

import numpy as np
import pytest
import torch

from harness.conformance import toys
from harness.data.dataset import LoadedPart, split_sha256
from harness.registry.discovery import discover
from harness.types import Split
from support.analyses import analysis_context, quantities
from support.tables import context_of_tables

GROUPS = ("consistent", "inconsistent", "wrong_when_clean")


def measured_sets(ctx, attack="pgd-10"):
    return quantities("confidence_sets", ctx, attack=attack)


def softmax(row):
    shares = [math.exp(value) for value in row]
    return [share / sum(shares) for share in shares]


CLEAN = [[2.0, 0.0, 0.0], [0.0, 3.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
ATTACKED = [[1.0, 0.5, 0.0], [2.0, 1.0, 1.0], [0.0, 2.0, 0.0], [0.0, 0.0, 4.0]]
LABELS = [0, 1, 1, 2]
"""Right and right; right and wrong; right and right; wrong and right."""
MEMBERS = {"consistent": [0, 2], "inconsistent": [1], "wrong_when_clean": [3]}


def test_each_group_by_hand():
    ctx = context_of_tables(CLEAN + ATTACKED, LABELS, 4)
    found = measured_sets(ctx, "pgd-40")
    assert ctx.peers.asked == ["pgd-40"]
    for group, rows in MEMBERS.items():
        clean = [softmax(CLEAN[i])[LABELS[i]] for i in rows]
        attacked = [softmax(ATTACKED[i])[LABELS[i]] for i in rows]
        squares = [sum((a - b) ** 2 for a, b in zip(CLEAN[i], ATTACKED[i], strict=True)) for i in rows]
        mean = lambda values: sum(values) / len(values)  # noqa: E731
        losses = mean([-math.log(c) - math.log(a) for c, a in zip(clean, attacked, strict=True)])
        alp = mean(squares) / 3
        expected = {
            "images": len(rows), "share": 25 * len(rows), "clean_confidence": 100 * mean(clean),
            "adversarial_confidence": 100 * mean(attacked), "clean_loss": mean([-math.log(c) for c in clean]),
            "adversarial_loss": mean([-math.log(a) for a in attacked]), "classification_loss": losses,
            "alp_loss": alp, "alp_loss_sum": 3 * alp, "alp_share": 100 * alp / (alp + losses),
        }  # fmt: skip
        for name, value in expected.items():
            quantity = found[f"{group}_{name}"]
            assert quantity["value"] == pytest.approx(value, rel=1e-6), f"{group} {name}"
            assert quantity["n"] == (4 if name in ("images", "share") else len(rows))
    assert len(found) == 3 * 10
    units = {name.removeprefix("consistent_"): found[name]["unit"] for name in found if name.startswith("consistent")}
    assert {unit for name, unit in units.items() if name in ("alp_loss", "alp_loss_sum")} == {"squared logits"}
    assert {unit for name, unit in units.items() if name.endswith(("confidence", "share"))} == {"%"}
    assert {units[f"{name}_loss"] for name in ("clean", "adversarial", "classification")} == {"nats"}


def test_an_empty_group_has_a_size_and_no_numbers():
    found = measured_sets(context_of_tables(CLEAN[:1] + ATTACKED[:1], LABELS[:1], 1))
    assert found["inconsistent_images"] == {"value": 0.0, "n": 1, "unit": "images"}
    empty = {name: q for name, q in found.items() if name.startswith("inconsistent_") and q["n"] == 0}
    assert len(empty) == 8
    assert all(quantity["value"] is None for quantity in empty.values())


def test_a_confidence_of_one_is_a_number():
    found = measured_sets(context_of_tables([[1e4, 0.0], [1e4, 0.0]], [0], 1))
    assert found["consistent_alp_share"]["value"] is None, "nothing divided by nothing"
    assert found["consistent_clean_confidence"]["value"] == 100


def test_groups_cover_every_image_and_pieces_change_nothing():
    """The share of consistent images is a joint event: at most clean accuracy, at most accuracy on attacked images."""
    stream = np.random.default_rng(0)
    n = 120
    logits = stream.normal(size=(2 * n, 5)).astype(np.float32)
    labels = stream.integers(0, 5, n)
    found = measured_sets(context_of_tables(logits, labels, n))
    right, still = logits[:n].argmax(1) == labels, logits[n:].argmax(1) == labels
    counts = [int(m.sum()) for m in (right & still, right & ~still, ~right)]
    assert [found[f"{group}_images"]["value"] for group in GROUPS] == counts
    assert sum(counts) == n
    assert found["consistent_share"]["value"] <= 100 * min(right.mean(), still.mean())


def test_examples_reach_the_attack_in_order_and_all_of_them():
    seen = []

    def noted(model, x, y, examples):
        seen.extend(examples)
        assert all(type(example) is int for example in examples), "noise is keyed by plain integers"
        return x

    n = 200
    ctx = context_of_tables([[1.0, 0.0]] * n, [0] * n, 0, noted)
    ctx.examples = np.concatenate([np.arange(n)[::-1], np.arange(n)])
    assert measured_sets(ctx)["consistent_images"] == {"value": 400.0, "n": 400, "unit": "images"}
    assert seen == ctx.examples.tolist()


def test_an_installed_attack_finds_what_it_breaks_itself():
    """The consistent set under FGSM is the set that FGSM written anew leaves."""
    from harness.conformance.toy_training import DATASET
    from harness.training.peers import Peers as Installed

    model = toys.tiny_net()
    test = toys.toy_part(n=64, seed=9)
    x, _ = test.batch(np.arange(64), torch.device("cpu"))
    y = model(x).argmax(dim=1).detach()
    split = Split(pixels=test.split.pixels, labels=y.numpy())
    peers = Installed(
        registry=discover(), dataset=DATASET, data_sha256="0" * 64, seed=0, uses=None,
        network_of=lambda name, eps: model, train=toys.toy_part,
    )  # fmt: skip
    model.requires_grad_(False)
    ctx = analysis_context(model, LoadedPart(split, split_sha256(split)), peers=peers)
    point = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(point), y, reduction="sum"), point)
    left = int((model((x + 0.05 * gradient.sign()).clamp(0, 1)).argmax(dim=1) == y).sum())
    found = measured_sets(ctx, "fgsm")
    assert 0 < left < 64
    assert found["consistent_images"]["value"] == left
    assert found["inconsistent_images"]["value"] == 64 - left
    assert found["wrong_when_clean_images"]["value"] == 0
