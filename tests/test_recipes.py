"""Which paper a recipe is of: none is taken in place of another's, by default or on a board."""

import dataclasses
import json
from fractions import Fraction
from pathlib import Path

import pytest

from conftest import ROOT
from harness.errors import NothingSelected, UsageError
from harness.leaderboard import definition as definitions
from harness.leaderboard.missing import requests
from harness.planning.plan import plan
from harness.planning.subjects import find_recipe
from harness.registry.discovery import discover
from harness.registry.names import parse_name, plain
from harness.storage.records import read_compacted
from harness.types import Architecture, Dataset, Defense, Recipe, Subject

BOARDS = sorted(path.parent for path in (ROOT / "leaderboards").glob("*/board.toml"))
REGISTRY = discover()
DATASETS = {entry.spec.name: entry.spec for entry in REGISTRY.entries(Dataset)}
DEFENSES = {entry.spec.name: entry.spec for entry in REGISTRY.entries(Defense)}
PAPERS = {"AALP": "aalp", "ANCRA": "ancra", "Simple Structure": "simple-structure", "TPAP": "tpap"}
"""How the boards' papers begin -> what the names of their recipes begin with."""
CALLED_OURS = ("modern", "quick", "quick-0.2", "quick-0.3", "quick-0.4", "mnist-cpu")
OWN = {
    # `fgsm_at` is TPAP's base and states its settings; `fast_at` is called fast in its paper.
    "simple_structure": "simple-structure", "fgsm_at": "tpap", "fast_at": "fast",
}  # fmt: skip
"""Defense -> what its paper's recipes begin with, where that is not the defense's own name."""


def all_recipes() -> list[tuple[str, str, Recipe]]:
    """Whose, on which dataset, and the recipe."""
    offered = [("", data.name, recipe) for data in DATASETS.values() for recipe in data.recipes]
    for defense in DEFENSES.values():
        for found in (defense.recipes, defense.more_recipes):
            offered += [(defense.name, dataset, recipe) for dataset, own in found.items() for recipe in own]
    return offered


def is_ours(recipe: Recipe) -> bool:
    return recipe.source.startswith("ours")


def is_of(recipe: Recipe, paper: str) -> bool:
    return recipe.name == paper or recipe.name.startswith(f"{paper}-")


def subjects_of(found: definitions.Definition) -> list[Subject]:
    """Everything that a board would train, were nothing measured."""
    try:
        asked = requests(found, [])
    except NothingSelected:
        return []
    return [subject for request in asked for subject in plan(request, REGISTRY).subjects]


def foreign(found: definitions.Definition) -> list[str]:
    """What a board plans to train by a recipe of another paper, or by one of ours without saying so."""
    paper = next((recipe for name, recipe in PAPERS.items() if found.paper.name.startswith(name)), "")
    wrong = []
    for subject in subjects_of(found):
        recipe, name = subject.recipe, parse_name(subject.defense)[0]
        if recipe is None or (
            is_ours(recipe) and (found.kind == "ranked" or found.paper.recipe not in ("", recipe.name))
        ):
            continue
        own = [
            one
            for recipes in (DEFENSES[name].recipes, DEFENSES[name].more_recipes)
            for one in sum(recipes.values(), ())
        ]
        known = recipe in own or (recipe.name == "aalp" and "AALP" in recipe.source)
        if not (is_of(recipe, paper) if paper else known):
            wrong.append(f"{subject.defense} by {recipe.name}")
    return wrong


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_a_board_trains_by_the_recipes_of_its_paper_or_says_that_they_are_ours(board: Path):
    found = definitions.read(board)
    assert found.kind == "ranked" or any(found.paper.name.startswith(name) for name in PAPERS)
    assert foreign(found) == []


@pytest.mark.parametrize(
    ("board", "old", "new", "told"),
    [
        # A table of ANCRA by AALP's recipe, as it was planned on CIFAR-100 before recipes had their papers' names.
        ("ancra-cifar10", 'recipe = "ancra"', 'recipe = "aalp"', "ancra by aalp"),
        ("tpap-accuracy", 'recipe = "tpap"', 'recipe = "simple-structure"', None),
        ("simple-structure-per-attack", 'recipe = "simple-structure"', 'recipe = "tpap"', None),
        ("aalp-v2-cifar10", 'recipe = "aalp"', 'recipe = "ancra"', None),
        # Ours in the table of a paper whose recipe the board does not state.
        ("aalp-v2-cifar10", 'recipe = "aalp"', 'recipe = "modern"', "aalp by modern"),
    ],
)
def test_a_planted_recipe_of_another_paper_is_found(tmp_path, board, old, new, told):
    text = (ROOT / "leaderboards" / board / definitions.FILE).read_text()
    assert old in text
    planted = tmp_path / board
    planted.mkdir()
    (planted / definitions.FILE).write_text(text.replace(old, new))
    found = definitions.read(planted)
    if told is None:
        with pytest.raises(UsageError, match=r"no recipe '.*' for .* on cifar10; there are: "):
            foreign(found)
    else:
        assert told in foreign(found)


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda dataset: dataset.name)
def test_the_default_of_a_dataset_is_ours_and_that_of_a_defense_is_its_own(dataset):
    assert is_ours(dataset.recipes[0])
    for name, defense in DEFENSES.items():
        if defense.load is not None:
            continue
        recipe = find_recipe("", defense, dataset)
        assert is_ours(recipe) or recipe in defense.recipes[dataset.name]
        own = OWN.get(name, name)
        assert is_ours(recipe) or is_of(recipe, own), (name, recipe.name)


@pytest.mark.parametrize("name", ["cifar100", "tiny-imagenet", "caltech101", "fashion-mnist", "folder", "digits"])
def test_where_aalp_was_not_run_nothing_is_trained_by_its_recipe(name):
    for defense in DEFENSES.values():
        with pytest.raises(UsageError, match="no recipe 'aalp'"):
            find_recipe("aalp", defense, DATASETS[name])


@pytest.mark.parametrize(
    ("name", "arch", "lr", "steps", "eps", "step"),
    [
        ("mnist", "madry_mnist", 1e-4, 40, Fraction("0.3"), Fraction("0.01")),
        ("svhn", "resnet9", 1e-4, 10, Fraction(12, 255), Fraction(3, 255)),
        ("cifar10", "resnet32", 1e-5, 7, Fraction(8, 255), Fraction(2, 255)),
    ],
)
def test_aalps_recipes_are_those_of_its_section_4_1_whatever_the_budgets_of_the_dataset(
    name, arch, lr, steps, eps, step
):
    (recipe,) = (one for one in DATASETS[name].recipes if one.name == "aalp")
    assert (recipe.arch, recipe.optimizer, recipe.lr, recipe.schedule) == (arch, "adam", lr, "constant")
    assert (recipe.inner.steps, recipe.inner.eps, recipe.inner.step, recipe.inner.start) == (
        steps,
        eps,
        step,
        "uniform",
    )


def test_a_recipe_is_called_by_its_paper_and_says_where_it_is_from():
    for whose, dataset, recipe in all_recipes():
        assert recipe.name != "paper"
        assert recipe.source, (whose, dataset, recipe.name)
        assert is_ours(recipe) == (recipe.name in CALLED_OURS), recipe.name
        assert parse_name(recipe.arch)[0] in {entry.spec.name for entry in REGISTRY.entries(Architecture)}


USUAL = {
    "optimizer": "adam", "momentum": 0.0, "weight_decay": 0.0, "milestones": [], "decay": 0.1, "augment": "none",
    "selection": "last",
}  # fmt: skip
QUICK = USUAL | {"arch": "digits_net", "epochs": 60, "batch": 64, "lr": 0.002, "schedule": "cosine"}
INNER = {"eps": None, "start": "uniform", "mode": "eval", "ramp_epochs": 0}
OURS = {
    "quick": QUICK | {
        "inner": INNER | {"steps": 7, "step": "1/20"},
        "source": "ours: under a minute for each defense on two CPU cores",
    },
    "quick-0.3": QUICK | {
        "inner": INNER | {"steps": 7, "eps": "3/10", "step": "3/40"},
        "source": "ours: `quick` at linf 0.3, the budget at which TPAP's base overfits on digits",
    },
    "mnist-cpu": USUAL | {
        "arch": "lenet5", "epochs": 10, "batch": 128, "lr": 0.001, "schedule": "constant",
        "inner": INNER | {"steps": 10, "step": "3/40", "ramp_epochs": 3}, "source": "ours: minutes on two CPU cores",
    },
}  # fmt: skip
"""What the cards of networks that are measured already say of their recipe."""


@pytest.mark.parametrize(("name", "written"), OURS.items())
def test_the_recipes_of_what_is_measured_stay_as_they_are(name, written):
    dataset = DATASETS["mnist" if name == "mnist-cpu" else "digits"]
    fields = dataclasses.asdict(find_recipe(name, DEFENSES["raw"], dataset))
    del fields["deploy_eps"]
    wanted = {"name": name} | written
    assert json.dumps(fields, default=str, sort_keys=True) == json.dumps(wanted, sort_keys=True)


MEASURED = ["digits-linf", "tpap-digits", "aalp-digits", "simple-structure-digits", "mnist-linf-0.3", "aalp-v2-mnist"]


@pytest.mark.parametrize("name", MEASURED)
def test_what_is_measured_is_what_is_planned_with_every_parameter(name):
    """So that a parameter that came later leaves every committed record valid."""
    board = ROOT / "leaderboards" / name
    recorded = {}
    for record in read_compacted(board / "records.jsonl"):
        identity = record["identity"]
        recorded[identity["defense"], identity["recipe"], identity["train_seed"]] = identity
    planned = subjects_of(definitions.read(board))
    assert planned
    for subject in planned:
        identity = recorded[subject.defense, subject.recipe.name, subject.train_seed]
        assert {key: plain(value) for key, value in subject.defense_params.items()} == identity["defense_params"]
