"""Every cell of every paper's board is planned in the setting that its sources print or publish: `settings.csv`."""

import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from conftest import ROOT
from harness.leaderboard import definition as definitions
from harness.leaderboard import printed
from harness.registry.discovery import discover
from harness.registry.registry import Registry
from harness.types import Dataset, Defense, Recipe
from support import settings

REGISTRY = discover()
LINES = settings.read_table()
BOARDS = sorted(
    path.parent
    for path in (ROOT / "leaderboards").glob("*/board.toml")
    if definitions.read(path.parent).kind == "paper"
)
GROUPS = [("paper:tpap", "cifar10"), ("paper:tpap", "svhn"), ("paper:simple-structure", "cifar10")]
TPAP = ["cifar10", "cifar100", "svhn", "tiny-imagenet"]
SOURCE = re.compile(r"(neither version of )?(AALP|TPAP slides|Simple Structure|sections 2 and 4\.1)|[\w-]+/[\w-]+@[0-9a-f]{7} ")


def by_name(board: Path) -> str:
    return board.name


def cells_of(board: Path, registry: Registry = REGISTRY) -> list[settings.Planned]:
    return settings.cells(definitions.read(board), printed.read(ROOT / "leaderboards" / board.name), registry)


PLANNED = {board.name: cells_of(board) for board in BOARDS}
"""The cells of each board, planned once."""


def differences(planned: list[settings.Planned], lines: list[settings.Line] = LINES) -> list[str]:
    return [text for one in planned for text in settings.differences(one, lines)]


@pytest.mark.parametrize("board", BOARDS, ids=by_name)
def test_every_cell_is_planned_as_the_sources_have_it(board):
    assert differences(PLANNED[board.name]) == []


@pytest.mark.parametrize("board", BOARDS, ids=by_name)
def test_a_board_names_the_settings_that_no_source_states(board):
    assert list(definitions.read(board).ours) == sorted(settings.silent(PLANNED[board.name], LINES))


@pytest.mark.parametrize("dataset", TPAP)
def test_tpap_trains_and_purifies_as_its_code_does(dataset):
    assert differences([settings.trained("tpap", dataset, REGISTRY)]) == []


@pytest.mark.parametrize(("group", "dataset"), GROUPS)
def test_a_papers_group_of_attacks_has_the_papers_settings(group, dataset):
    assert differences(settings.attacks_of(group, dataset, REGISTRY)) == []


def test_every_line_has_a_source_and_a_place_of_its_own():
    places = [(line.board, line.dataset, line.row, line.column, line.setting) for line in LINES]
    assert len(set(places)) == len(places)
    assert [line for line in LINES if not SOURCE.match(line.source)] == []


def test_a_wrong_value_in_any_line_of_the_table_is_noticed():
    everything = [one for planned in PLANNED.values() for one in planned]
    everything += [settings.trained("tpap", dataset, REGISTRY) for dataset in TPAP]
    everything += [one for group, dataset in GROUPS for one in settings.attacks_of(group, dataset, REGISTRY)]
    counts = [settings.counting(one.place, LINES) for one in everything]
    unnoticed = []
    for i, line in enumerate(LINES):
        wrong = "1" if line.value == settings.NOT_STATED else "wrong"
        planted = [*LINES[:i], replace(line, value=wrong), *LINES[i + 1 :]]
        cells = [one for one, lines in zip(everything, counts, strict=True) if lines.get(line.setting) == i]
        if not any(
            differences([one], planted) != differences([one])
            or settings.silent([one], planted) != settings.silent([one], LINES)
            for one in cells
        ):
            unnoticed.append(line)
    assert unnoticed == []


WRONG_BOARDS = [
    ("aalp-v2-mnist", r'attack = "pgd-40"', 'attack = "pgd-40[step=1/50]"', "attack.step is 0.01"),
    ("aalp-v2-mnist", r'attack = "pgd-100"', 'attack = "pgd-20[step=1/100]"', "attack.steps is 100"),
    ("aalp-v2-mnist", r'attack = "fgsm"', 'attack = "bim"', "attack is fgsm"),
    ("aalp-v2-mnist", r"linf:3/10", "linf:1/10", "attack.eps is 0.3"),
    ("aalp-v2-mnist", r'arch = "madry_mnist"', 'arch = "lenet5"', "network is madry_mnist"),
    ("aalp-v2-mnist", r'(\[paper\][^\[]*recipe = )"[\w-]+"', r'\1"mnist-cpu"', "recipe is aalp"),
    ("aalp-v1-cifar10", r'"aalp\[version=1\]"', '"aalp[beta=0.5,version=1]"', "defense.beta is 0.6"),
    ("aalp-v1-cifar10", r'"aalp\[version=1\]"', '"aalp"', "defense.version is 1"),
    ("ancra-cifar10-wrn", r"wrn28_10", "wrn34_10", "network is wrn28_10"),
    ("ancra-cifar10", r"n = 10000", "n = 1000", "n is 10000"),
    ("ancra-cifar10", r'"ancra"', '"ancra[zeta=2.0]"', "defense.zeta is 3.0"),
    ("ancra-tiny-imagenet", r"step=7/1000", "step=2/255", "attack.step is 0.007"),
    ("tpap-accuracy", r"step=3/1000", "step=2/255", "attack.step is 0.003"),
    ("tpap-accuracy", r"trades\[inner=ce\]", "trades[beta=5.0,inner=ce]", "defense.beta is 6.0"),
    ("tpap-accuracy", r"mart\[beta=6.0,variant=tpap\]", "mart[variant=tpap]", "defense.beta is 6.0"),
    ("simple-structure-main", r"simple_structure\[b=0.0", "simple_structure[b=0.5", "defense.b is 0.0"),
    ("simple-structure-detector", r"layers=8", "layers=4", "defense.layers is 8"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "right", "wrong", "message"), WRONG_BOARDS)
def test_a_wrong_value_in_a_board_is_noticed(name, right, wrong, message, tmp_path):
    text, changes = re.subn(right, wrong, (ROOT / "leaderboards" / name / "board.toml").read_text())
    assert changes
    board = tmp_path / name
    board.mkdir()
    (board / "board.toml").write_text(text)
    before = {text for text in differences(PLANNED[name]) if message in text}
    assert {text for text in differences(cells_of(board)) if message in text} - before


def with_recipes(change: Callable[[Recipe], Recipe]) -> Registry:
    """All that is installed, with every recipe changed."""

    def changed(offer: object) -> object:
        if isinstance(offer, Dataset):
            return replace(offer, recipes=tuple(map(change, offer.recipes)))
        if isinstance(offer, Defense):
            return replace(offer, recipes={name: tuple(map(change, own)) for name, own in offer.recipes.items()})
        return offer

    return Registry([replace(plugin, offers=[changed(offer) for offer in plugin.offers]) for plugin in REGISTRY.loaded])


WRONG_RECIPES = {
    "optimizer": lambda recipe: replace(recipe, optimizer="sgd" if recipe.optimizer == "adam" else "adam"),
    "lr": lambda recipe: replace(recipe, lr=2 * recipe.lr),
    "momentum": lambda recipe: replace(recipe, momentum=0.8),
    "weight_decay": lambda recipe: replace(recipe, weight_decay=1e-2),
    "schedule": lambda recipe: replace(recipe, schedule="cosine"),
    "milestones": lambda recipe: replace(recipe, milestones=(7, *recipe.milestones)),
    "decay": lambda recipe: replace(recipe, decay=0.2),
    "epochs": lambda recipe: replace(recipe, epochs=recipe.epochs + 1),
    "batch": lambda recipe: replace(recipe, batch=recipe.batch + 1),
    "augment": lambda recipe: replace(recipe, augment="wrong"),
    "inner.eps": lambda recipe: replace(recipe, inner=replace(recipe.inner, eps=Fraction(1, 255))),
    "inner.steps": lambda recipe: replace(recipe, inner=replace(recipe.inner, steps=3)),
    "inner.step": lambda recipe: replace(recipe, inner=replace(recipe.inner, step=Fraction(1, 255))),
    "inner.start": lambda recipe: replace(recipe, inner=replace(recipe.inner, start="none")),
    "inner.mode": lambda recipe: replace(recipe, inner=replace(recipe.inner, mode="train")),
}


@pytest.mark.parametrize("name", WRONG_RECIPES)
def test_a_wrong_value_in_a_recipe_is_noticed(name):
    registry = with_recipes(WRONG_RECIPES[name])
    for board in ("aalp-v1-mnist", "ancra-tiny-imagenet", "tpap-accuracy", "simple-structure-detector"):
        planned = cells_of(ROOT / "leaderboards" / board, registry)
        about = [one for one in planned if name in one.required and settings.states(one.place, LINES, name)]
        assert all(any(f"{name} is" in text for text in differences([one])) for one in about), board
