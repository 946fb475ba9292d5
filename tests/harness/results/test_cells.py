"""Median distances against a count by hand, and cells that are reported but decide nothing."""

import csv
import io
import itertools
import math
import random

import pytest

from harness.errors import StoreError
from harness.leaderboard.tables import has_worst_case, wide
from harness.leaderboard.tidy import tidy
from harness.results import audit
from harness.results.rows import rows
from harness.types import CellState
from support.records import record


def far(distances, clean="1111", raw="1010", span=(0, 4), minimal=True, attack="ddn", **kwargs):
    """A record with distances; nothing in it is broken inside the budget."""
    never = "0" * len(clean)
    made = record(attack, clean=clean, raw=raw, last=never, any_=never, span=span, minimal=minimal, **kwargs)
    made["outcome"]["distances"] = list(distances)
    return made


def only(found):
    (row,) = rows(found)
    (cell,) = row.cells.values()
    return cell


def by_sorting(values):
    ordered, n = sorted(values), len(values)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2 if n else None


# Medians


@pytest.mark.parametrize("minimal", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_a_median_is_that_of_the_images_that_were_right_with_failures_infinitely_far(seed, minimal):
    stream = random.Random(seed)
    n = stream.choice([1, 2, 7, 30])
    clean, raw = ("".join(stream.choices("01", (1, 4), k=n)) for _ in range(2))
    distances = [stream.random() for _ in range(n)]
    cut = stream.randint(1, n - 1) if n > 1 else n
    pieces = [(0, cut), (cut, n)] if n > 1 else [(0, n)]
    stream.shuffle(pieces)
    found = [far(distances[a:b], clean[a:b], raw[a:b], (a, b), minimal, split_size=n) for a, b in pieces]
    counted = []
    for i in range(n):
        if clean[i] == "0":
            continue
        counted.append(math.inf if minimal and raw[i] == "1" else distances[i])
    assert only(found).median_distance == by_sorting(counted)


def test_more_failures_than_half_are_infinitely_far_and_written_so():
    cell = only([far([0.1, 0.2, 0.3, 0.4], raw="1110")])
    assert cell.median_distance == math.inf
    made = far([0.1, 0.2, 0.3, 0.4], raw="1110")
    assert "median inf" in wide(rows([made]))
    assert ",inf," in tidy(rows([made]))


def test_clean_mistakes_are_left_out_however_near_they_are():
    assert only([far([0.0, 0.0, 0.3, 0.5], clean="0011", raw="0000")]).median_distance == pytest.approx(0.4)
    assert only([far([0.0, 0.0], clean="00", raw="00", span=(0, 2))]).median_distance is None
    assert only([record()]).median_distance is None


def test_the_median_reads_the_returned_image_wherever_it_lies():
    """An image broken beyond the budget counts with its distance, though it counts as robust."""
    cell = only([far([0.5, 0.6, 0.7, 0.8], raw="0000")])
    assert cell.robust == "1111"
    assert cell.median_distance == pytest.approx(0.65)


def test_tables_show_the_median_beside_the_share():
    made = far([0.1, 0.2, 0.30001, 0.4], raw="0000")
    assert "n=4 median 0.25" in wide(rows([made, record()]))
    lines = list(csv.DictReader(io.StringIO(tidy(rows([made, record()])))))
    assert {line["attack"]: line["median_distance"] for line in lines} == {
        "ddn": "0.250005", "pgd-10": "", "worst case": "",
    }  # fmt: skip


def test_a_cell_of_which_one_shard_holds_no_distances_has_no_median():
    without = far([], span=(4, 8), split_size=8)
    del without["outcome"]["distances"]
    assert only([far([0.1] * 4, split_size=8), without]).median_distance is None


def test_minimal_and_other_records_of_one_cell_are_two_kinds():
    with pytest.raises(StoreError, match="minimal is"):
        rows([far([0.1] * 4), far([0.1] * 4, minimal=False)])
    with pytest.raises(StoreError, match="supplies is"):
        rows([record(supplies={"surrogate": "a"}), record(supplies={"surrogate": "b"})])
    with pytest.raises(StoreError, match="ranked is"):
        rows([record(), record(ranked=False)])
    with pytest.raises(StoreError, match="knowledge is"):
        rows([record(), record(knowledge="transfer")])


# Cells that are not ranked


def style(any_, defense, distances=(0.1, 0.2, 0.3, 0.4), **kwargs):
    kwargs = {"threat": "unbounded", "ranked": False, "raw": "1111", **kwargs}
    made = record("sta", defense, any_=any_, last=any_, **kwargs)
    made["outcome"]["distances"] = list(distances)
    return made


def order(*found):
    return [row.defense for row in rows(found)]


@pytest.mark.parametrize("shuffled", list(itertools.permutations(range(4)))[::5])
def test_unranked_cells_never_decide_the_order_of_rows(shuffled):
    ranked = [record(defense="good", any_="0001"), record(defense="weak", any_="0111")]
    free = [style("1111", "good"), style("0000", "weak")]
    found = [*ranked, *free]
    assert order(*(found[i] for i in shuffled)) == ["good", "weak"]
    assert order(record(defense="good", any_="0001"), record(defense="weak", any_="0111")) == ["good", "weak"]
    turned = [
        record(defense="good", any_="0001"),
        style("1111", "good", ranked=True),
        record(defense="weak", any_="0111"),
    ]
    assert order(*turned) == ["weak", "good"], "a ranked one does"


def test_rows_with_unranked_cells_only_are_ordered_by_clean_accuracy():
    assert order(style("0000", "a", clean="0011"), style("1111", "b", clean="0111")) == ["b", "a"]


def test_unranked_kinds_show_their_numbers_and_no_worst_case():
    found = rows([record(defense="good"), style("0111", "good")])
    assert found[0].threats() == ["linf:1/5", "unbounded"]
    assert found[0].ranked_threats() == ["linf:1/5"]
    assert has_worst_case(found, "linf:1/5")
    assert not has_worst_case(found, "unbounded")
    assert not has_worst_case(found, "none")
    bounded, free = wide(found).split("## digits, unbounded")
    assert "Worst case (linf:1/5)" in bounded
    assert "Worst case (" not in free
    assert "25.0 [4.6, 69.9] n=4 median 0.25" in free
    lines = list(csv.DictReader(io.StringIO(tidy(found))))
    assert [(line["threat"], line["attack"]) for line in lines if line["attack"] == "worst case"] == [
        ("linf:1/5", "worst case")
    ]
    assert [line["threat"] for line in lines if line["attack"] == "sta"] == ["unbounded"]


def test_an_unranked_kind_of_which_every_cell_failed_shows_no_worst_case_either():
    table = wide(rows([record(defense="good")]), {("good", "sta", "unbounded"): (CellState.FAILED, "ValueError: no")})
    assert "Worst case (unbounded)" not in table


def test_what_does_not_apply_makes_no_worst_case_partial_and_what_failed_does():
    found = rows([record(defense="good")])
    for state, words in (("not applicable", False), ("failed", True), ("timeout", True), ("refused", True)):
        states = {("good", "x", "linf:1/5"): (CellState(state), "because")}
        assert ("partial" in wide(found, states)) == words
        assert (",partial," in tidy(found, states)) == words
        assert f"| {state} |" in wide(found, states)


# Probes and flags


@pytest.mark.parametrize("n", [1, 2, 3])
def test_what_was_probed_is_read_from_any_cell_and_not_added_up_over_shards(n):
    found = [record(span=(4 * i, 4 * i + 4), split_size=4 * n) for i in range(n)]
    for made in found:
        made["outcome"]["probes"] = {"gradient_calls": 2.0, "zero_gradient_ce": 0.5}
        made["outcome"]["flags"] = {"as_published": 1, "false_claims": 3}
    (row,) = rows([*found, record("clean", threat="none", split_size=4)])
    flags = audit.flags(row)
    assert flags["dynamic"] == "2 calls in a prediction"
    assert flags["zero_gradients"].startswith("50 % of images under cross-entropy")
    assert flags["false_claims"] == f"{3 * n} images"
    assert {name: cell.flags for (name, _, _), cell in row.cells.items()}["pgd-10"]["as_published"] == 1
