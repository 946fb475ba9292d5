"""The committed boards: their names resolve, their printed values are the shared ones, their tables follow."""

import csv
from fractions import Fraction
from pathlib import Path

import pytest

from conftest import ROOT
from harness.leaderboard import definition as definitions
from harness.leaderboard.board import check
from harness.leaderboard.measurable import hindrances
from harness.leaderboard.missing import request_for
from harness.leaderboard.printed import FILE
from harness.leaderboard.printed import read as read_printed
from harness.planning.plan import find_dataset, plan
from harness.planning.subjects import find_recipe
from harness.registry.discovery import discover
from harness.registry.names import format_name, overrides, parse_name, resolve, split_target
from harness.results.pairs import pairs
from harness.results.rows import rows
from harness.storage.records import read_compacted
from harness.types import Analysis, Architecture, Attack, Defense

BOARDS = sorted(path.parent for path in (ROOT / "leaderboards").glob("*/board.toml"))
REGISTRY = discover()


def by_name(board: Path) -> str:
    return board.name


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def canonical(kind, text: str) -> str:
    """An id as records have it."""
    bare, target = split_target(text)
    name, given = parse_name(bare)
    spec = REGISTRY.get(kind, name).spec
    label = format_name(spec.name, overrides(spec.params, resolve("id", name, spec.params, given)))
    return f"{label}@{target}" if target else label


@pytest.mark.parametrize("board", BOARDS, ids=by_name)
def test_every_name_is_the_one_that_records_have(board):
    found = definitions.read(board)
    for row in found.rows:
        if not row.defense:
            continue
        assert canonical(Defense, row.defense) == row.defense
        defense = REGISTRY.entry(Defense, row.defense).spec
        for column in found.columns:
            filled, setting = found.column(row, column), found.setting(row, column)
            dataset = find_dataset(setting.dataset, REGISTRY)[0]
            assert find_recipe(setting.recipe, defense, dataset).name == setting.recipe
            if setting.arch:
                assert canonical(Architecture, setting.arch) == setting.arch
            if filled.attack:
                assert canonical(Attack, filled.attack) == filled.attack
                stand_in = split_target(filled.attack)[1]
                assert stand_in in {"", *(one.name for one in defense.stand_ins)}
            if filled.analysis:
                analysis = canonical(Analysis, filled.analysis)
                assert analysis == filled.analysis


@pytest.mark.parametrize("board", [board for board in BOARDS if (board / FILE).exists()], ids=by_name)
def test_printed_values_are_the_shared_ones_and_each_has_a_cell(board, shared):
    known = {tuple(row.values()) for path in (shared / "papers").glob("*.csv") for row in lines_of(path)}
    lines = lines_of(board / FILE)
    assert all(tuple(line.values()) in known for line in lines)
    found = definitions.read(board)
    cells = {
        (row.printed_dataset or found.setting(row, column).dataset, row.printed, filled.printed, filled.metric)
        for row in found.rows
        for column in found.columns
        for filled in [found.column(row, column)]
    }
    own = [line for line in lines if line["paper"] == found.paper.name]
    named = ("dataset", "defense", "attack", "metric")
    missing = [line for line in own if tuple(line[name] for name in named) not in cells]
    assert own
    assert missing == []


def test_every_results_table_of_the_papers_has_a_board(shared):
    wanted = {
        (row["paper"], row["table"])
        for pattern in ("aalp_*", "simple_structure_*", "tpap_*", "ancra_readme_*")
        for path in (shared / "papers").glob(f"{pattern}.csv")
        for row in lines_of(path)
    }
    has = {
        (row["paper"], row["table"])
        for board in BOARDS
        if (board / FILE).exists()
        for row in lines_of(board / FILE)
        if row["paper"] == definitions.read(board).paper.name
    }
    assert wanted - has == set()


@pytest.mark.parametrize("board", BOARDS, ids=by_name)
def test_tables_follow_from_records(board):
    check(board)


@pytest.mark.parametrize("board", BOARDS, ids=by_name)
def test_every_cell_has_a_command_or_a_reason_why_never(board):
    found = hindrances(definitions.read(board), REGISTRY, rows(read_compacted(board / "records.jsonl")))
    assert [one.in_words for one in found if not one.stated] == []


def test_cells_that_nothing_measures_are_these():
    found = {
        board.name: sorted({one.stated for one in hindrances(definitions.read(board), REGISTRY)}) for board in BOARDS
    }
    quoted = ["quoted by the README from its authors"]
    assert {name: reasons for name, reasons in found.items() if reasons} == {
        "ancra-cifar10": quoted, "ancra-cifar10-wrn": quoted, "ancra-cifar100": quoted, "ancra-tiny-imagenet": quoted,
        "simple-structure-noise": ["a setting of the attacks, which nothing measures"],
        "tpap-cost": ["seconds are the machine's, and records are the same on every machine"],
    }  # fmt: skip


PAPERS = [board for board in BOARDS if definitions.read(board).kind == "paper"]
NETWORKS = {"lenet": "madry_mnist", "preactresnet18": "preact_resnet18", "wrn-34-10": "wrn34_10",
            "wrn-28-10": "wrn28_10"}  # fmt: skip
"""Where the CSVs of printed values call a network otherwise; which LeNet AALP means is a reading of this project."""
IMAGES = {"mnist": 10_000, "svhn": 26_032, "cifar10": 10_000, "cifar100": 10_000, "tiny-imagenet": 10_000}


@pytest.mark.parametrize("board", PAPERS, ids=by_name)
def test_every_printed_cell_states_the_papers_network_and_images(board):
    """A setting that is not stated is not compared, and a number in another one would read as reproduced."""
    found, printed = definitions.read(board), read_printed(board)
    costs = board.name == "tpap-cost"
    for row in found.rows:
        for column in found.columns:
            filled, setting = found.column(row, column), found.setting(row, column)
            key = (row.printed_dataset or setting.dataset, row.printed, filled.printed, filled.metric)
            own = [value for value in printed.get(key, []) if value.paper == found.paper.name]
            own = [value for value in own if row.printed_arch in ("", value.arch)]
            if not own or found.never(row, filled):
                continue
            assert (row.paper_arch or found.paper.arch) == NETWORKS.get(own[0].arch, own[0].arch)
            n = row.paper_n or found.paper.n
            expected = 5000 if board.name.startswith("simple-structure") else IMAGES[setting.dataset]
            assert n == (None if costs else expected), "operations of an image need no number of images"
            assert (found.paper.split == "test") != board.name.startswith("simple-structure")


@pytest.mark.parametrize("board", PAPERS, ids=by_name)
def test_an_attack_whose_steps_cannot_reach_the_budget_says_so(board):
    """A paper that prints one step and one length says nothing of shorter runs of that step."""
    found, silent = definitions.read(board), set()
    for row in found.rows:
        for column in found.columns:
            filled, setting = found.column(row, column), found.setting(row, column)
            if not row.defense or not filled.attack or found.never(row, filled):
                continue
            (cell,) = plan(request_for(setting, (filled.attack,), (), [row.defense]), REGISTRY).cells
            steps, step, eps = cell.params.get("steps"), cell.params.get("step"), cell.threat.eps
            if (
                steps
                and step
                and eps
                and steps * Fraction(step) < eps
                and f"step {float(step):g}" not in setting.protocol
            ):
                silent.add(column.label)
    assert silent == set()


@pytest.mark.parametrize("table", ["detector", "main", "per-attack"])
def test_simple_structure_is_trained_and_measured_on_what_its_script_stores(table):
    found = definitions.read(ROOT / f"leaderboards/simple-structure-{table}")
    for row in found.rows:
        given = parse_name(row.defense)[1]
        assert (given["storage"], given["sets"]) == ("jpeg75", "published"), row.label
        for column in found.columns:
            filled = found.column(row, column)
            assert filled.analysis == "detector[mixture=both_networks]"
            assert filled.quantity.startswith("classification of the clean network") == (row.label == "Baseline")
            assert filled.scale == 100, "shares are compared in per cent"
    ratios = {parse_name(row.defense)[1].get("ratio", 0.5) for row in found.rows}
    ranges = [row for row in found.rows if "ratio_range" in row.defense]
    assert len(ranges) == (table != "per-attack")
    assert table == "per-attack" or 0.25 in ratios


def test_the_sizes_that_simple_structure_prints_are_its_parameters_here():
    """Table 1; `deepfool_script` has no parameters: its constants are compared where they are."""
    printed = {line["attack"]: float(line["value"]) for line in lines_of(
        ROOT / "leaderboards/simple-structure-noise/paper.csv")}  # fmt: skip
    of = {name: REGISTRY.get(Attack, name).spec.params for name in ("gaussian", "fgsm_ss", "bim_ss", "nst_ss")}
    ours = {"gaussian_noise": of["gaussian"]["sigma"], "fgsm": of["fgsm_ss"]["size"], "bim": of["bim_ss"]["size"],
            "nst": of["nst_ss"]["lr"]}  # fmt: skip
    assert {name: float(value) for name, value in ours.items()} == {name: printed[name] for name in ours}
    assert set(printed) - set(ours) == {"deepfool", "cw_l2"}, "a factor of the script, and what it never reads"


def test_aalps_mnist_table_has_the_papers_rows_and_columns():
    lines = lines_of(ROOT / "leaderboards/aalp-v2-mnist/table.csv")
    labels = [name.removesuffix(" printed") for name in lines[0] if name.endswith(" printed")]
    assert [label for label in labels if "step" not in label] == [
        "Clean", "FGSM", "PGD10", "PGD20", "PGD40", "PGD100", "CW10", "CW20", "CW40", "CW100",
    ]  # fmt: skip
    ours = {"Madry adv, clean images too", "TRADES, beta 1"}
    assert [line["row"] for line in lines if line["row"] not in ours] == [
        "RAW", "Madry adv", "Kannan ALP", "TRADES", "AALP_gd", "AALP_sw", "AALP",
    ]  # fmt: skip
    assert all(line[f"{label} printed"] and line[f"{label} measured"] for line in lines for label in labels)
    assert {line[f"{label} n"] for line in lines for label in labels} == {"10000"}


def test_trades_stands_before_aalp_on_mnist_with_the_weight_of_its_cifar_script_only():
    """What the boards' notes and the changelog conclude."""
    found = {row.defense: row for row in rows(read_compacted(ROOT / "leaderboards/mnist-linf-0.3/records.jsonl"))}
    for other in ("aalp", "alp", "pgd_at"):
        worst = pairs(found[other], found["trades[beta=1.0]"])[-1]
        assert worst.attack == "worst case"
        assert worst.difference > 0
        assert worst.p < 0.01, other
    assert pairs(found["trades"], found["aalp"])[-1].difference > 0
    lines = lines_of(ROOT / "leaderboards/aalp-v2-mnist/table.csv")
    left = {line["row"]: float(line["PGD100 measured"]) for line in lines}
    assert left["TRADES"] > left["AALP"] > left["TRADES, beta 1"]


def test_the_units_of_tpaps_costs_are_the_papers():
    """ResNet-18 on 32x32 images: 11,173,962 parameters, 1.1108e9 FLOPs of inference, three times that of training."""
    board = ROOT / "leaderboards/tpap-cost"
    found, printed = definitions.read(board), read_printed(board)
    inference = 1.1108e9
    ours = {
        ("raw", "train_flops"): 3 * inference, ("pgd_at", "train_flops"): 33 * inference,
        ("raw", "test_flops"): inference, ("pgd_at", "test_flops"): inference,
        ("raw", "parameters"): 11_173_962, ("pgd_at", "parameters"): 11_173_962,
    }  # fmt: skip
    columns = {column.metric: column for column in found.columns}
    close = {
        key: columns[key[1]].tolerance.allows(value * columns[key[1]].scale, own)
        for key, value in ours.items()
        for (own,) in [printed["cifar10", key[0], "none", key[1]]]
    }
    assert {key for key, same in close.items() if not same} == {("raw", "train_flops")}, "161.5 for 166.5, a misprint"
