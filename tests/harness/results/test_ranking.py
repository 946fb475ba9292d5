"""Ranks, paired tests and paired intervals against sums written out by hand."""

import itertools
import math
import re
from fractions import Fraction

import pytest

from harness.errors import NothingSelected
from harness.leaderboard.tables import wide
from harness.leaderboard.tidy import tidy
from harness.results.pairs import pairs
from harness.results.ranking import discordant, paired_tests, ranks
from harness.results.rows import rows
from harness.results.sources import find_row
from harness.results.stats import holm, mcnemar, paired_interval
from harness.storage.records import compact
from support.records import record


def exact(b: int, c: int) -> float:
    """Twice the smaller tail of a fair coin, in whole numbers."""
    n = b + c
    tail = sum(math.comb(n, k) for k in range(min(b, c) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**n)))


@pytest.mark.parametrize(("b", "c"), list(itertools.product(range(7), repeat=2)))
def test_mcnemar_is_the_exact_two_sided_coin(b, c):
    assert mcnemar(b, c) == pytest.approx(exact(b, c), rel=1e-12)


def test_holm_steps_down_and_never_falls():
    # Sorted 0.01, 0.02, 0.03, 0.04 with factors 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_the_paired_interval_covers_what_it_says():
    """Its coverage over every outcome of 30 images, weighted by the multinomial law, is about 95 %."""
    n, first, second = 30, 0.2, 0.1
    inside = total = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            weight = math.comb(n, b) * math.comb(n - b, c) * first**b * second**c * (1 - first - second) ** (n - b - c)
            low, high = paired_interval(b, c, n)
            total += weight
            inside += weight * (low <= first - second <= high)
    assert total == pytest.approx(1.0)
    assert 0.94 < inside < 0.975


def test_discordant_counts_common_images_only():
    assert discordant("1100", "101011") == (1, 1, 4)
    assert discordant("1111", "0000") == (4, 0, 4)


def standing(name: str, bits: str, **more):
    """A row whose one attack leaves the images of `bits` standing."""
    broken = bits.translate(str.maketrans("01", "10"))
    n = len(bits)
    size = more.pop("split_size", n)
    return record(defense=name, span=(0, n), clean="1" * n, raw=bits, last=broken, any_=broken, split_size=size, **more)


def named(*records):
    found = rows(records)
    return {row.defense: rank for row, rank in zip(found, ranks(found, "linf:1/5"), strict=True)}


def test_a_rank_counts_the_rows_that_are_significantly_better():
    # Ten discordant images all one way: p = 2 / 1024; Holm multiplies by at most 3.
    assert named(standing("best", "1" * 12), standing("near", "1" * 11 + "0"), standing("worst", "1" + "0" * 11)) == {
        "best": 1, "near": 1, "worst": 3,
    }  # fmt: skip


def test_holm_can_take_a_difference_back():
    # 6 discordant images one way: p = 1/32 alone is below 5 %, but of three pairs 3/32 is not.
    assert named(standing("a", "1" * 6), standing("b", "0" * 6)) == {"a": 1, "b": 2}
    assert named(standing("a", "1" * 6), standing("b", "0" * 6), standing("c", "0" * 6)) == {"a": 1, "b": 1, "c": 1}


def test_rows_on_fewer_images_than_the_split_are_not_ranked_unless_asked_for():
    found = rows([standing("whole", "1" * 12), standing("part", "0" * 10, split_size=12)])
    by_name = {row.defense: i for i, row in enumerate(found)}
    places = ranks(found, "linf:1/5")
    assert (places[by_name["whole"]], places[by_name["part"]]) == (1, None)
    places = ranks(found, "linf:1/5", rank_limited=True)
    assert (places[by_name["whole"]], places[by_name["part"]]) == (1, 2)


def test_tables_show_ranks_and_say_what_is_not_ranked():
    found = rows([standing("whole", "1" * 12), standing("part", "0" * 10, split_size=12)])
    table = wide(found)
    assert "| 1 | whole |" in table
    assert "| not ranked | part |" in table
    line = next(line for line in tidy(found).splitlines() if "worst case" in line and ",part," in line)
    assert ",not ranked," in line


def test_paired_tests_name_who_keeps_what():
    (test,) = paired_tests(["1110", "0011"])
    assert (test.only_first, test.only_second, test.n) == (2, 1, 4)
    assert test.p == test.adjusted == pytest.approx(exact(2, 1))


def test_pairs_compare_common_attacks_and_worst_cases():
    first, second = (
        rows([standing(name, bits), standing(name, other, attack="fgsm")])[0]
        for name, bits, other in (("a", "1100", "1111"), ("b", "0100", "1110"))
    )
    found = {pair.attack: pair for pair in pairs(first, second)}
    assert set(found) == {"pgd-10", "fgsm", "worst case"}
    assert found["pgd-10"].difference == pytest.approx(25.0)
    assert (found["pgd-10"].only_first, found["pgd-10"].only_second) == (1, 0)
    assert found["worst case"].first == pytest.approx(50.0)


def test_rows_on_other_images_are_not_compared():
    first = rows([standing("a", "11")])[0]
    second = rows([standing("b", "11", data_sha256="e" * 64)])[0]
    with pytest.raises(NothingSelected, match="not measured on the same images"):
        pairs(first, second)


def test_a_row_is_found_by_its_defense_and_other_trainings_by_their_seed(tmp_path):
    path = tmp_path / "records.jsonl"
    found = [standing("a", "11", train_seed=seed, weights_sha256=str(seed) * 64) for seed in (2, 1)]
    path.write_bytes(compact([*found, standing("b", "10")]))
    assert find_row("a", path).train_seed == 1
    assert find_row("a (seed 2)", path).train_seed == 2
    with pytest.raises(NothingSelected, match=re.escape("no row 'c'; it has: a (seed 1), a (seed 2), b")):
        find_row("c", path)
    path.write_bytes(compact([*found, standing("a", "10", arch="wide")]))
    with pytest.raises(NothingSelected, match="2 rows 'a'"):
        find_row("a", path)
