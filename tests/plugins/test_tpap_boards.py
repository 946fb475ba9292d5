"""TPAP's boards: planned against the settings of slides and code, and run on synthetic images of the right shape."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ROOT
from harness.api import Architecture, Split
from harness.leaderboard import definition as definitions
from harness.leaderboard.definition import ColumnDefinition
from harness.leaderboard.missing import requests
from harness.planning.plan import plan
from harness.planning.request import Request
from harness.registry.discovery import discover
from harness.reporter import Reporter
from harness.running.outcome import Settings
from harness.running.run import run
from harness_tpap.purify import Purified
from harness_tpap.recipes import RECIPES

REGISTRY = discover()
SLIDES = {
    "FGSM": "fgsm", "PGD-20": "pgd-20[step=3/1000]", "PGD-100": "pgd-100[step=7/10000]", "CW": "cw_l2_advertorch10",
    "DDN": "ddn_tpap", "STA": "sta_tpap", "FWA": "fwa_tpap", "AA": "aa_standard", "TI-DIM": "mi_fgsm_tpap",
}  # fmt: skip
"""The attacks that the slides name, by what its attack script runs under that name."""
SHAPES = {
    "cifar10": (10, 3, 32, 32), "cifar100": (100, 3, 32, 32), "svhn": (10, 3, 32, 32),
    "tiny-imagenet": (200, 3, 64, 64), "caltech101-300x200": (101, 3, 200, 300),
}  # fmt: skip
"""Classes and pixels; Caltech-101 is 300 wide and 200 high."""
NETWORKS = ("resnet18", "vgg16", "wrn34_10")
NAMED = {"ResNet-18": "resnet18", "VGG-16": "vgg16", "WRN-34-10": "wrn34_10"}
BASES = {
    "TPAP": "tpap", "TPAP, base TRADES": "tpap[base=trades]", "TPAP, base MART": "tpap[base=mart]",
    "base without purification": "tpap[strength=0]",
}  # fmt: skip
ATTACKS = ["paper:tpap", "square", "adaptive"]


def in_every_network(wide: str) -> list[tuple[str, str, str, str]]:
    """Write out the rows of a board with three networks, by their labels; `wide`: the recipe of wide networks."""
    return [
        (f"{label}, {named}", defense, network, wide if network == "wrn34_10" else "tpap")
        for named, network in NAMED.items()
        for label, defense in BASES.items()
    ]


RANKED = {
    "tpap-cifar10": (ATTACKS, in_every_network("tpap-wide")),
    "tpap-cifar100": (ATTACKS, in_every_network("tpap-wide")),
    "tpap-svhn": (ATTACKS, in_every_network("tpap-wide")),
    "tpap-tiny-imagenet": (ATTACKS, in_every_network("tpap")),
    "tpap-caltech101": (
        ATTACKS,
        [
            ("TPAP, ResNet-18", "tpap", "resnet18", "tpap-slides"),
            ("base without purification, ResNet-18", "tpap[strength=0]", "resnet18", "tpap-slides"),
            ("no defense, ResNet-18", "raw", "resnet18", "modern"),
        ],
    ),
    "cifar10-linf-8_255": (
        ["all"],
        [
            ("pgd_at", "pgd_at", "resnet18", "tpap"),
            ("trades", "trades", "wrn34_10", "trades"),
            ("mart", "mart", "resnet18", "mart"),
            ("aalp", "aalp", "resnet32", "aalp"),
            ("ancra", "ancra", "resnet18", "ancra"),
            ("tpap", "tpap", "resnet18", "tpap"),
        ],
    ),
}  # fmt: skip
"""The attacks of each ranked board, and its rows: label, defense, network, recipe."""


def rows_of(board: Path):
    """Read a ranked board: what it attacks with, its rows, and the threat models of their cells."""
    found = definitions.read(board)
    column = ColumnDefinition(label="", settings={})
    settings = [found.setting(row, column) for row in found.rows]
    rows = [
        (row.label, row.defense, setting.arch, setting.recipe)
        for row, setting in zip(found.rows, settings, strict=True)
    ]
    return list(found.attacks), rows, {setting.threat for setting in settings}


@pytest.mark.parametrize("name", RANKED)
def test_a_ranked_board_has_the_rows_of_its_labels_the_attacks_and_8_255(name):
    assert rows_of(ROOT / "leaderboards" / name) == (*RANKED[name], {"linf:8/255"})


@pytest.mark.parametrize("name", RANKED)
def test_every_cell_of_a_ranked_board_is_planned_at_8_255(name):
    linf = [cell.threat for found in planned(name) for cell in found.cells if cell.threat.kind == "linf"]
    assert linf
    assert {threat.eps for threat in linf} == {Fraction(8, 255)}


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("tpap-svhn", "linf:8/255", "linf:12/255"),
        ("tpap-cifar10", 'arch = "resnet18"', 'arch = "vgg16"'),
        ("tpap-cifar100", 'recipe = "tpap-wide"', 'recipe = "tpap"'),
        ("tpap-svhn", "tpap[base=trades]", "tpap[base=mart]"),
        ("tpap-tiny-imagenet", ', "adaptive"]', "]"),
        ("tpap-caltech101", "tpap[strength=0]", "tpap"),
        ("cifar10-linf-8_255", 'recipe = "mart"', 'recipe = "tpap"'),
    ],
)
def test_a_wrong_value_in_a_ranked_board_is_noticed(name, right, wrong, tmp_path):
    text = (ROOT / "leaderboards" / name / "board.toml").read_text()
    assert right in text
    (tmp_path / "board.toml").write_text(text.replace(right, wrong, 1))
    assert rows_of(tmp_path) != (*RANKED[name], {"linf:8/255"})


def planned(name: str):
    found = definitions.read(ROOT / "leaderboards" / name)
    return [plan(request, REGISTRY) for request in requests(found, [])]


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "svhn", "tiny-imagenet"])
def test_every_network_and_base_is_planned_under_the_attacks_of_the_slides(dataset):
    plans = planned(f"tpap-{dataset}")
    trained, seen = Fraction(12 if dataset == "cifar100" else 8, 255), set()
    for found in plans:
        assert (found.dataset.classes, *found.dataset.shape) == SHAPES[dataset]
        for subject in found.subjects:
            recipe = subject.recipe
            seen.add((subject.arch, subject.defense))
            assert (recipe.optimizer, recipe.lr, recipe.momentum, recipe.weight_decay) == ("sgd", 0.01, 0.9, 1e-3)
            assert (recipe.epochs, recipe.inner.eps) == (150 if dataset == "cifar100" else 100, trained)
            assert recipe.augment == "none" or dataset != "svhn"
            if dataset != "tiny-imagenet":
                assert recipe.batch == (64 if subject.arch == "wrn34_10" else 128)
            own = [cell for cell in found.cells if cell.subject == subject]
            on = {cell.attack for cell in own if cell.on == "base"}
            assert {f"{attack}@base" for attack in SLIDES.values()} <= on
            assert {cell.knowledge for cell in own if cell.on == "base"} == {"static"}
            assert {"clean", "square", "pgd-100@bpda", "tpap_bpda", "tpap_label"} <= {cell.attack for cell in own}
            linf = {cell.threat.eps for cell in own if cell.threat.kind == "linf"}
            assert linf == {Fraction(8, 255)}
    bases = ("tpap", "tpap[base=trades]", "tpap[base=mart]", "tpap[strength=0]")
    assert seen == {(network, base) for network in NETWORKS for base in bases}


def test_caltech_is_planned_in_the_size_of_the_slides():
    (found,) = {(f.dataset.name, f.dataset.shape) for f in planned("tpap-caltech101")}
    assert found == ("caltech101-300x200", SHAPES["caltech101-300x200"][1:])


def synthetic(dataset: str):
    """Loads a few images of noise, of the dataset's shape and classes."""
    classes, *shape = SHAPES[dataset]

    def load(part, *, root, location):
        n = {"train": 4, "validation": 2, "test": 3}[part]
        drawn = np.random.default_rng(len(part))
        return Split(
            pixels=drawn.integers(0, 256, (n, *shape), dtype=np.uint8),
            labels=drawn.integers(0, classes, n).astype(np.int64),
        )

    return load


@pytest.mark.parametrize(
    ("dataset", "loader"),
    [
        ("cifar10", "datasets:cifar10"),
        ("cifar100", "datasets:cifar100"),
        ("svhn", "datasets:svhn"),
        ("tiny-imagenet", "tiny_imagenet:tiny_imagenet"),
        ("caltech101-300x200", "caltech101:caltech101_large"),
    ],
)
def test_images_of_its_shape_are_trained_on_purified_and_attacked(dataset, loader, tmp_path, monkeypatch):
    # By a narrow network, as the papers' take minutes; theirs are below.
    module, _, function = loader.partition(":")
    monkeypatch.setattr(f"harness_vision.{module}.{function}", synthetic(dataset))
    first = RECIPES[dataset][0]
    short = replace(first, epochs=1, batch=4, inner=replace(first.inner, steps=1))
    monkeypatch.setitem(RECIPES, dataset, (short,))
    asked = Request(
        defenses=["tpap"], attacks=["clean", "fgsm", "tpap_label[steps=1,targets=1]"], dataset=dataset,
        arch="digits_net[width=2]", recipe=first.name, threats=("linf:8/255",),
    )  # fmt: skip
    outcome = run(plan(asked, REGISTRY), REGISTRY, Settings(output=tmp_path, device="cpu"), Reporter())
    assert outcome.failures == []
    found = {cell["identity"]["attack"]: cell["outcome"] for cell in outcome.records}
    assert set(found) == {"clean", "fgsm", "fgsm@base", "tpap_label[steps=1,targets=1]"}
    assert {result["n"] for result in found.values()} == {3}


@pytest.mark.parametrize("dataset", ["cifar100", "tiny-imagenet"])
@pytest.mark.parametrize(
    "arch", ["resnet18", "vgg16", pytest.param("wrn34_10", marks=pytest.mark.slow)],
)  # fmt: skip
def test_its_networks_are_purified_on_images_of_that_shape(arch, dataset):
    classes, *shape = SHAPES[dataset]
    network = REGISTRY.get(Architecture, arch).spec.build(tuple(shape), classes).eval().requires_grad_(False)
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    model = Purified(network, 8 / 255, "predicted")
    with torch.no_grad():
        assert float((model.purify(x) - x).abs().max()) == pytest.approx(8 / 255, abs=1e-6)
        assert model(x).shape == (1, classes)
