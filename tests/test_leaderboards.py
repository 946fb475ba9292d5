"""The committed boards: their names resolve, their printed values are the shared ones, their tables follow."""

import csv
from pathlib import Path

import pytest

from conftest import ROOT
from harness.leaderboard import definition as definitions
from harness.leaderboard.board import check
from harness.leaderboard.printed import FILE
from harness.planning.plan import find_dataset
from harness.planning.subjects import find_recipe
from harness.registry.discovery import discover
from harness.registry.names import format_name, overrides, parse_name, resolve, split_target
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


def test_aalps_mnist_table_has_the_papers_rows_and_columns():
    lines = lines_of(ROOT / "leaderboards/aalp-v2-mnist/table.csv")
    labels = [name.removesuffix(" printed") for name in lines[0] if name.endswith(" printed")]
    assert labels == [
        "Clean", "FGSM", "PGD10", "PGD20", "PGD40", "PGD100", "CW10", "CW20", "CW40", "CW100",
    ]  # fmt: skip
    assert [line["row"] for line in lines] == [
        "RAW", "Madry adv", "Kannan ALP", "TRADES", "AALP_gd", "AALP_sw", "AALP",
    ]  # fmt: skip
    assert all(line[f"{label} printed"] and line[f"{label} measured"] for line in lines for label in labels)
    assert {line[f"{label} n"] for line in lines for label in labels} == {"10000"}
