"""Rows are what their hashes say: names never join them, and every name that is printed finds one row."""

import itertools
import json

import pytest

from harness.errors import NothingSelected, StoreError
from harness.leaderboard.changes import changes
from harness.leaderboard.export import ranked_latex, robustbench_json
from harness.leaderboard.tables import wide
from harness.leaderboard.tidy import tidy_frame
from harness.results.naming import abbreviated
from harness.results.pairs import pairs
from harness.results.ranking import placed, ranks, unranked
from harness.results.rows import rows
from harness.results.sources import find_row
from harness.results.trainings import trainings
from harness.storage.records import compact
from harness.types import CellState
from support.records import record

BEST, WORST = "1" * 12, "0" * 12


def one(bits=BEST, attack="pgd-10", **more):
    """A record whose attack leaves the images of `bits` standing."""
    broken = bits.translate(str.maketrans("01", "10"))
    n = len(bits)
    return record(
        attack, span=(0, n), clean="1" * n, raw=bits, last=broken, any_=broken, split_size=n,
        **{"recipe": "quick", **more},
    )  # fmt: skip


def own(bits=BEST, name="net.build", weights="a", source="5" * 12, **more):
    """A record of somebody's own network: no recipe, and an origin with the sha256 of its source."""
    origin = f"{name.partition(' (')[0]}@{source}"
    given = {"weights_sha256": weights * 64, "deployed_sha256": weights * 64, "defense_origin": origin}
    return one(bits, defense=name, arch="own", recipe="own", **{**given, "arch_origin": origin, **more})


def found_again(place, found):
    """Whether every name that tables print finds the row that they print it for."""
    (place / "records.jsonl").write_bytes(compact(found))
    for row in rows(found):
        assert find_row(row.name, place).key == row.key
        if not row.train_seed:
            assert find_row(row.title, place).key == row.key
    return True


# ---- two datasets of one name


VAL = {"dataset": "folder:val"}
TWO_FOLDERS = [own(data_sha256="1a2b3c" + "0" * 58, **VAL), own(WORST, data_sha256="ffff00" + "0" * 58, **VAL)]


def test_two_datasets_of_one_name_are_two_tables_each_with_its_own_ranks(tmp_path):
    found = rows(TWO_FOLDERS)
    table = wide(found)
    assert table.count("## ") == 2
    for title in ("folder:val (sha 1a2b3c)", "folder:val (sha ffff00)"):
        assert f"## {title}, linf:1/5" in table
        assert f"| 1 | net.build on {title} |" in table
    assert "| 2 |" not in table
    assert ranks(found, "linf:1/5") == [1, 1]
    assert set(placed(found, False).values()) == {1}
    assert found_again(tmp_path, TWO_FOLDERS)
    with pytest.raises(NothingSelected, match=r"2 rows 'net\.build': write one of: .*1a2b3c.*; .*ffff00"):
        find_row("net.build", tmp_path)
    with pytest.raises(NothingSelected, match="not measured on the same images"):
        pairs(*found)
    assert ranked_latex(found).count("\\begin{tabular}") == 2


def test_a_title_takes_as_many_digits_as_it_needs():
    close = [own(data_sha256=sha + "0" * 57, **VAL) for sha in ("1a2b3c4", "1a2b3c5")]
    assert "## folder:val (sha 1a2b3c4), linf" in wide(rows(close))
    assert "## folder:val, linf" in wide(rows(close[:1]))
    assert abbreviated(["abc", "abd", "x"], 1) == {"abc": "abc", "abd": "abd", "x": "x"}


def test_one_set_of_images_under_two_names_is_one_table():
    found = rows([own(dataset="folder:val"), own(WORST, weights="b", dataset="folder:other")])
    table = wide(found)
    assert table.count("## ") == 1
    assert "| 2 |" in table


def test_a_change_of_the_images_is_no_change_of_a_number():
    old, new = (rows([folder]) for folder in TWO_FOLDERS)
    verdicts = {(change.row.partition(",")[0], change.verdict) for change in changes(old, new)}
    assert verdicts == {("net.build", "missing"), ("net.build", "added")}


def test_analyses_and_states_stay_with_their_own_images():
    found = rows(TWO_FOLDERS)
    lost = {(found[0].name, "square", "linf:1/5"): (CellState.FAILED, "no")}
    first, second = wide(found, lost).split("## ")[1:]
    assert "square" in first
    assert "square" not in second
    frame = tidy_frame(found, lost)
    (line,) = frame[frame["state"] == "failed"].to_dict("records")
    assert line["data_sha256"] == found[0].data_sha256


# ---- one name, two weights


TWO_WEIGHTS = [own(BEST, weights="a"), own(WORST, weights="b")]


def test_two_weights_of_one_network_are_two_rows_that_are_ranked_and_compared(tmp_path):
    found = rows(TWO_WEIGHTS)
    assert len(trainings(found)) == 2
    assert ranks(found, "linf:1/5") == [1, 2]
    assert {unranked(row, found) for row in found} == {"not ranked"}
    table = wide(found)
    assert "another training" not in table
    assert "trainings" not in table
    assert "| 1 | net.build (weights aaaaaaaa) |" in table
    assert "| 2 | net.build (weights bbbbbbbb) |" in table
    assert found_again(tmp_path, TWO_WEIGHTS)
    # Twelve images that only the first keeps: an exact two-sided coin gives 2 / 2 ** 12.
    assert [pair.p for pair in pairs(*found)] == pytest.approx([2 / 2**12] * 2)
    with pytest.raises(NothingSelected, match=r"2 rows 'net\.build'"):
        find_row("net.build", tmp_path)
    with pytest.raises(NothingSelected, match="compared with itself"):
        pairs(found[0], rows(TWO_WEIGHTS)[0])


@pytest.mark.parametrize("recipe", ["own", "given weights"])
def test_given_weights_are_no_training_whatever_the_seed(recipe):
    found = rows([one(BEST, recipe=recipe), one(WORST, recipe=recipe, train_seed=1, weights_sha256="b" * 64)])
    assert sorted(ranks(found, "linf:1/5")) == [1, 2]
    assert len({row.title for row in found}) == 2


def test_another_seed_of_a_recipe_is_another_training_and_the_same_seed_twice_is_told_apart(tmp_path):
    seeds = [one(BEST), one(WORST, train_seed=1, weights_sha256="b" * 64)]
    assert ranks(rows(seeds), "linf:1/5") == [1, None]
    assert [row.name for row in rows(seeds)] == ["aalp", "aalp (seed 1)"]
    again = [*seeds, one(WORST, weights_sha256="c" * 64)]
    assert {row.name for row in rows(again)} == {"aalp (weights aaaaaaaa)", "aalp (weights cccccccc)", "aalp (seed 1)"}
    assert found_again(tmp_path, again)
    with pytest.raises(NothingSelected, match="2 rows 'aalp'"):
        find_row("aalp", tmp_path)


def test_labels_are_names(tmp_path):
    found = [own(BEST, "net.build (good)"), own(WORST, "net.build (bad)", "b")]
    assert {row.name for row in rows(found)} == {"net.build (good)", "net.build (bad)"}
    assert found_again(tmp_path, found)
    with pytest.raises(NothingSelected, match=r"write one of: net\.build \(good\); net\.build \(bad\)"):
        find_row("net.build", tmp_path)
    (tmp_path / "records.jsonl").write_bytes(compact(found[:1]))
    assert find_row("net.build", tmp_path).name == "net.build (good)"


def test_changes_of_two_weights_of_one_name_are_kept_apart():
    found = changes(rows(TWO_WEIGHTS), rows([TWO_WEIGHTS[0], own("01" * 6, weights="b")]))
    assert {(change.attack, change.verdict, "weights bbbb" in change.row) for change in found} == {
        ("pgd-10", "outside the interval", True), ("worst case", "outside the interval", True),
    }  # fmt: skip
    retrained = changes(rows([one(BEST)]), rows([one(WORST, weights_sha256="b" * 64)]))
    assert {change.verdict for change in retrained} == {"outside the interval"}


# ---- one network, two names


def test_the_same_network_under_two_names_is_one_row_that_both_names_find(tmp_path):
    first, second = own(BEST, "net.build (good)"), own(BEST, "mine", attack="fgsm")
    (row,) = rows([first, second])
    assert {cell.attack for cell in row.cells.values()} == {"pgd-10", "fgsm"}
    assert (row.name, row.also) == ("mine", ("net.build (good)",))
    assert "- mine: the same network as net.build (good)" in wide([row])
    assert found_again(tmp_path, [first, second])
    assert find_row("net.build (good)", tmp_path).key == find_row("mine", tmp_path).key == row.key
    assert changes(rows([own(BEST, "net.build (good)")]), rows([own(BEST, "mine")])) == []


def test_the_same_cell_under_two_names_depends_on_no_order():
    found = [own(BEST, name) for name in ("mine", "yours", "net.build (good)")]
    tables = {wide(rows(order)) + str(tidy_frame(rows(order))) for order in itertools.permutations(found)}
    assert len(tables) == 1


@pytest.mark.parametrize(
    "other",
    [
        own(WORST, "mine", source="6" * 12),  # other code around the same weights
        own(WORST, "mine", source="absent"),  # nothing says what the code is
        one(WORST, defense="mine", arch="own", recipe="own", defense_origin="plugin@555555555555"),
    ],
)
def test_the_same_weights_in_other_code_are_another_row(other):
    first = own(BEST, source="absent" if other["identity"]["defense_origin"].endswith("absent") else "5" * 12)
    found = rows([first, other])
    assert len(found) == 2
    assert ranks(found, "linf:1/5") == [1, 2]


def test_edited_code_under_one_name_is_told_apart_by_its_source(tmp_path):
    found = [own(BEST), own(WORST, source="6" * 12)]
    assert {row.name for row in rows(found)} == {"net.build (source 55555555)", "net.build (source 66666666)"}
    assert found_again(tmp_path, found)


def test_two_plugins_with_a_defense_of_one_name_are_two_rows(tmp_path):
    found = [one(BEST), one(WORST, defense_origin="acme")]
    assert ranks(rows(found), "linf:1/5") == [1, 2]
    assert found_again(tmp_path, found)
    with pytest.raises(StoreError, match="passes is 1 and 5"):
        rows([one(BEST), one(BEST, passes=5)])


# ---- what else is looked up by a name


def test_networks_and_recipes_of_one_name_are_told_apart_wherever_a_name_is_printed(tmp_path):
    found = [
        one(BEST, attack="aa_standard"), one(WORST, attack="aa_standard", arch="wide", weights_sha256="b" * 64),
        one("1" * 6, recipe="long", weights_sha256="c" * 64),
    ]  # fmt: skip
    assert {row.name for row in rows(found)} == {"aalp (net, quick)", "aalp (wide, quick)", "aalp (net, long)"}
    assert found_again(tmp_path, found)


def test_robustbenchs_format_tells_networks_apart_and_counts_clean_images_that_autoattack_had():
    longer = one("1" * 12 + "0" * 12, attack="fgsm")
    longer["outcome"] |= {"clean": "1" * 12 + "0" * 12, "any": "0" * 24}
    found = [
        one(BEST, attack="aa_standard"), longer, one(WORST, attack="aa_standard", arch="wide", weights_sha256="b" * 64),
        one(BEST, attack="aa_standard", threat="linf:1/10"),
        one(WORST, attack="aa_standard", train_seed=1, weights_sha256="c" * 64),
    ]  # fmt: skip
    info = json.loads(robustbench_json(rows(found)))
    assert {key: (value["autoattack_acc"], value["clean_acc"]) for key, value in info.items()} == {
        "digits/linf:1/5/aalp/net/quick": ("100.00", "100.00"),
        "digits/linf:1/10/aalp/net/quick": ("100.00", "100.00"),
        "digits/linf:1/5/aalp/wide/quick": ("0.00", "100.00"),
    }


def test_robustbenchs_format_tells_weights_of_one_name_apart():
    found = [own(bits, weights=weights, attack="aa_standard") for bits, weights in ((BEST, "a"), (WORST, "b"))]
    info = json.loads(robustbench_json(rows(found)))
    assert {key: value["autoattack_acc"] for key, value in info.items()} == {
        "digits/linf:1/5/net.build/own/own/aaaaaaaaaaaa": "100.00",
        "digits/linf:1/5/net.build/own/own/bbbbbbbbbbbb": "0.00",
    }
