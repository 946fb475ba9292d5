"""Flags: each is raised by a planted case and not by its honest neighbour."""

import pytest

from harness import audit
from harness.leaderboard.rows import rows
from toy_records import record


def flags(*found):
    (row,) = rows(found)
    return audit.flags(row)


def cell(attack, any_="0000", last=None, steps=10, cost=10, **kwargs):
    made = record(attack, any_=any_, last=last if last is not None else any_, **{"params": {"steps": steps}, **kwargs})
    made["outcome"] |= {"forwards": 4 * cost, "backwards": 4 * cost}
    return made


def test_an_honest_row_raises_nothing():
    assert flags(cell("fgsm", "0001", cost=1), cell("pgd-10", "0011"), cell("pgd-20", "0011", steps=20)) == {}


def test_limited():
    assert "4 of 500" in flags(record(split_size=500))["limited"]


def test_robust_ge_clean():
    assert "pgd-10" in flags(record(clean="0001", raw="1111", last="0000", any_="0000"))["robust_ge_clean"]


def test_single_step_wins():
    assert "fgsm" in flags(cell("fgsm", "1111", cost=1), cell("pgd-10", "0001"))["single_step_wins"]


@pytest.mark.parametrize(("last", "raised"), [("0000", True), ("0001", True), ("0010", True), ("0011", False)])
def test_not_monotone_steps(last, raised):
    found = flags(cell("pgd-10", last="0111", any_="0111"), cell("pgd-20", last=last, any_="0111", steps=20))
    assert ("not_monotone_steps" in found) == raised


@pytest.mark.parametrize(("step", "raised"), [("1/100", True), ("1/50", False)])
def test_under_reach(step, raised):
    assert ("under_reach" in flags(cell("pgd-10", params={"steps": 10, "step": step}))) == raised


def test_weak_protocol_names_what_was_not_run():
    assert flags(record(mandatory=["square", "pgd-10"]))["weak_protocol"] == "not run: square"
    assert "weak_protocol" not in flags(record(mandatory=["pgd-10"]))


@pytest.mark.parametrize("name", ["false_claims", "stochastic"])
def test_what_evaluation_noted_is_passed_on(name):
    assert flags(record(flags={name: 3}))[name] == "3"


def test_every_flag_has_a_meaning():
    assert set(audit.MEANING) == {
        "false_claims", "limited", "not_monotone_steps", "robust_ge_clean", "single_step_wins", "stochastic",
        "under_reach", "weak_protocol",
    }  # fmt: skip
