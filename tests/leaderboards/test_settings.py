"""Every cell of every paper's board is planned in the setting that its sources print or publish: `settings.csv`."""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path

import pytest

from conftest import ROOT
from harness.leaderboard import definition as definitions
from harness.leaderboard import printed
from harness.registry.discovery import discover
from harness.registry.registry import Registry
from harness.types import Dataset, Defense, Recipe
from support import planned, settings
from support.planned import Planned

REGISTRY = discover()
LINES = settings.read_table()
BOARDS = sorted(
    path.parent
    for path in (ROOT / "leaderboards").glob("*/board.toml")
    if definitions.read(path.parent).kind == "paper"
)
GROUPS = [
    ("paper:tpap", "cifar10"), ("paper:tpap", "svhn"), ("paper:simple-structure", "cifar10"),
    *(("paper:aalp-v1", dataset) for dataset in ("mnist", "svhn", "cifar10")),
    *(("paper:aalp-v2", dataset) for dataset in ("mnist", "svhn", "cifar10")),
    *(("paper:ancra", dataset) for dataset in ("cifar10", "cifar100", "tiny-imagenet")),
]  # fmt: skip
TPAP = ["cifar10", "cifar100", "svhn", "tiny-imagenet"]
SOURCE = re.compile(
    r"(neither version of )?(AALP|TPAP slides|Simple Structure \(arXiv:2204\.11596v2\)|sections 2 and 4\.1)"
    r"|[\w-]+/[\w-]+@[0-9a-f]{7} "
)
"""How a source begins: with a paper, or with a repository and the start of its commit."""


def by_name(board: Path) -> str:
    return board.name


def cells_of(board: Path, registry: Registry = REGISTRY) -> list[Planned]:
    return planned.cells(definitions.read(board), printed.read(ROOT / "leaderboards" / board.name), registry)


PLANNED = {board.name: cells_of(board) for board in BOARDS}
"""The cells of each board, planned once."""


def differences(found: list[Planned], lines: list[settings.Line] = LINES) -> list[str]:
    return [text for one in found for text in settings.differences(one, lines)]


@pytest.mark.parametrize("board", BOARDS, ids=by_name)
def test_every_cell_is_planned_as_the_sources_have_it(board):
    assert differences(PLANNED[board.name]) == []


@pytest.mark.parametrize("board", BOARDS, ids=by_name)
def test_a_board_names_the_settings_that_no_source_states(board):
    assert list(definitions.read(board).ours) == sorted(settings.silent(PLANNED[board.name], LINES))


@pytest.mark.parametrize("board", BOARDS, ids=by_name)
def test_a_number_is_reproduced_within_one_point_and_no_column_is_laxer(board):
    found = definitions.read(board)
    assert {found.tolerance.points, *(column.tolerance.points for column in found.columns)} == {1.0}


@pytest.mark.parametrize("dataset", TPAP)
def test_tpap_trains_and_purifies_as_its_code_does(dataset):
    assert differences([planned.trained("tpap", dataset, REGISTRY)]) == []


@pytest.mark.parametrize(("group", "dataset"), GROUPS)
def test_a_papers_group_of_attacks_has_the_papers_settings(group, dataset):
    assert differences(planned.attacks_of(group, dataset, REGISTRY)) == []


def test_every_line_has_a_source_and_a_place_of_its_own():
    places = [(line.board, line.dataset, line.row, line.column, line.setting) for line in LINES]
    assert len(set(places)) == len(places)
    assert [line for line in LINES if not SOURCE.match(line.source)] == []


def test_a_wrong_value_in_any_line_of_the_table_is_noticed():
    everything = [one for found in PLANNED.values() for one in found]
    everything += [planned.trained("tpap", dataset, REGISTRY) for dataset in TPAP]
    everything += [one for group, dataset in GROUPS for one in planned.attacks_of(group, dataset, REGISTRY)]
    counts = [settings.counting(one.place, LINES) for one in everything]
    unnoticed = []
    for i, line in enumerate(LINES):
        wrong = "test" if line.setting == "split" and line.value != "test" else "99"
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
    ("ancra-cifar10", r'defense = "ancra"', 'defense = "ancra[zeta=2.0]"', "defense.zeta is 3.0"),
    ("ancra-tiny-imagenet", r"step=7/1000", "step=2/255", "attack.step is 0.007"),
    ("tpap-accuracy", r"step=3/1000", "step=2/255", "attack.step is 0.003"),
    ("tpap-accuracy", r"trades\[", "trades[beta=5.0,", "defense.beta is 6.0"),
    ("tpap-accuracy", r"mart\[beta=6.0,", "mart[", "defense.beta is 6.0"),
    ("aalp-v1-confidence-sets", r"{set}_alp_loss", "{set}_classification_loss", "quantity is consistent_alp_loss"),
    ("tpap-cost", r"scale = 5e-08", "scale = 5e-07", "scale is 5e-8"),
    ("simple-structure-main", r"simple_structure\[b=0.0", "simple_structure[b=0.5", "defense.b is 0.0"),
    ("simple-structure-detector", r"layers=8", "layers=4", "defense.layers is 8"),
    ("aalp-v1-guided-dropout", r'"raw_gd"', '"raw"', "defense is raw_gd"),
    ("aalp-v1-consistent-fraction", r'"aalp\[version=1\]"', '"aalp_sw[version=1]"', "defense is aalp"),
    ("aalp-v1-cifar10", r'"aalp_gd"', '"aalp_gd[gd_scale=2.0]"', "no line for defense.gd_scale"),
    ("aalp-v2-svhn", r'"pgd_at"\n\n', '"pgd_at[attack_mode=train]"\n\n', "no line for defense.attack_mode"),
    ("aalp-v2-svhn", r'defense = "alp"', 'defense = "alp[ce=clean]"', "no line for defense.ce"),
    ("aalp-v2-cifar10", r'defense = "trades"', 'defense = "trades[beta=5.0]"', "no source states defense.beta"),
    ("aalp-v1-mnist", r"mix=0.5", "mix=0.25", "defense.mix is 0.5"),
    ("ancra-tiny-imagenet", r"step=7/1000", "step=7/1000,loss=margin", "no line for attack.loss"),
    ("aalp-v2-svhn", r'protocol = "PGD on the margin.*"', "", "no source states attack, attack.step, attack.kappa"),
    ("aalp-v2-svhn", r"kappa=50.0", "kappa=1.0", "attack.kappa is 1.0, and the protocol says ['50']"),
    ("aalp-v2-svhn", r"kappa([= ])50(\.0)?", r"kappa\g<1>1", "attack.kappa is 50.0"),
    ("aalp-v2-mnist", r"with kappa 50; ", "", "the protocol says []"),
    ("aalp-v1-cifar10", r'(iter_ll10"\n)protocol = .*', r"\1", "Iter-LL10: no source states attack.step"),
    ("aalp-v1-mnist", r'(pgd-100"\n)protocol = .*', r"\1", "PGD100: no source states attack.step"),
    ("aalp-v1-cifar10", r'protocol = "step 2/255', 'protocol = "step 1/255', "the protocol says ['1/255']"),
    ("aalp-v1-consistent-fraction", r"protocol = .split.*", "", "no source states analysis.attack"),
    ("tpap-accuracy", r"protocol = .*", "", "protocol is at 8/255*0.031*"),
    ("simple-structure-per-attack", r"bim_ss", "fgsm_ss", "quantity is classification, bim_ss"),
    ("simple-structure-per-attack", r"deepfool_script", "deepfool", "quantity is classification, deepfool_script"),
    ("aalp-v2-svhn", r'printed = "pgd10"', 'printed = "pgd20"', "printed.column is pgd10"),
    ("aalp-v1-cifar10", r'printed = "aalp_sw"', 'printed = "aalp_gd"', "printed.row is aalp_sw"),
    ("ancra-cifar10-wrn", r'printed_arch = "wrn-28-10"', 'printed_arch = "wrn-34-10"', "printed.arch is wrn-28-10"),
    ("ancra-cifar10", r'reading = "raw"', "", "reading is raw"),
    ("aalp-v1-svhn", r'(defense = "raw")', r'\1\nprinted_dataset = "cifar10"', "printed of cifar10"),
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
    """All that is installed, with every recipe changed wherever an offer has one."""

    def changed(value: object) -> object:
        if isinstance(value, Recipe):
            return change(value)
        if isinstance(value, tuple):
            return tuple(map(changed, value))
        return {name: changed(one) for name, one in value.items()} if isinstance(value, Mapping) else value

    def offer_of(offer: object) -> object:
        if not isinstance(offer, (Dataset, Defense)):
            return offer
        own = [field.name for field in fields(offer) if field.name.endswith("recipes")]
        return replace(offer, **{name: changed(getattr(offer, name)) for name in own})

    return Registry([replace(one, offers=list(map(offer_of, one.offers))) for one in REGISTRY.loaded])


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
    boards = ("aalp-v1-mnist", "ancra-tiny-imagenet", "tpap-accuracy", "simple-structure-detector")
    found = [one for board in boards for one in cells_of(ROOT / "leaderboards" / board, registry)]
    about = [one for one in found if name in one.required and settings.states(one.place, LINES, name)]
    assert about
    assert [one.place for one in about if not any(f"{name} is" in text for text in differences([one]))] == []
