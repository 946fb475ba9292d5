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
    better = {"clean": "0001", "raw": "1111", "last": "0000", "any_": "0000"}
    assert "pgd-10" in flags(record(**better))["robust_ge_clean"]
    assert "robust_ge_clean" not in flags(record("uniform", knowledge="blackbox", **better)), "noise puts images right"


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


@pytest.mark.parametrize("name", ["false_claims", "out_of_range"])
def test_images_that_evaluation_counted_are_passed_on(name):
    assert flags(record(flags={name: 3}))[name] == "3 images"


def test_a_published_variant_is_named():
    assert flags(record("ddn_tpap", flags={"as_published": 1}), record("ddn"))["as_published"] == "ddn_tpap"


def test_a_stochastic_defense_is_flagged_by_declaration_and_by_measurement():
    assert "stochastic" in flags(record(flags={"stochastic": 1}))
    assert "3 %" in flags(probed(logit_noise=0.03))["stochastic"]
    assert flags(probed(logit_noise=1e-5)) == {}


def probed(**numbers):
    made = record()
    made["outcome"]["probes"] = numbers
    return made


@pytest.mark.parametrize(
    ("name", "low", "high", "flag"),
    [
        ("zero_gradient_ce", 0.01, 0.02, "zero_gradients"),
        ("zero_gradient_margin", 0.0, 0.01, "zero_gradients"),
        ("probabilities", 0.0, 0.01, "probability_outputs"),
        ("gradient_calls", 0.0, 1.0, "dynamic"),
    ],
)
def test_what_was_probed_is_flagged_above_its_threshold(name, low, high, flag):
    assert flags(probed(**{name: low})) == {}
    assert list(flags(probed(**{name: high}))) == [flag]


@pytest.mark.parametrize(("knowledge", "flag"), [("blackbox", "blackbox_wins"), ("transfer", "transfer_wins")])
def test_an_attack_that_knows_less_may_not_break_more(knowledge, flag):
    white = cell("pgd-10", "0011"), cell("cw_inf-10", "0001")
    assert flag not in flags(*white, cell("weak", "0011", knowledge=knowledge)), "breaks nothing new"
    assert flag not in flags(*white, cell("weak", "0111", knowledge=knowledge)), "one image may be luck"
    assert "weak breaks 2 of 4" in flags(*white, cell("weak", "1111", knowledge=knowledge))[flag]
    assert flag not in flags(*white, cell("weak", "1111", knowledge=knowledge, threat="l2:1")), "another threat model"


def test_two_losses_that_disagree():
    def run(loss, any_, steps=10, **more):
        return cell(f"{loss}-{steps}", any_, params={"loss": loss, "steps": steps, **more})

    assert "losses_disagree" not in flags(run("ce", "0001"), run("margin", "0001"))
    assert "ce-10 75.0" in flags(run("ce", "0001"), run("margin", "0111"))["losses_disagree"]
    longest = run("ce", "0111", 20), run("margin", "0111", 20)
    assert "losses_disagree" not in flags(run("ce", "0001"), run("margin", "0111"), *longest), "the longest runs count"
    assert "losses_disagree" not in flags(run("ce", "0001", start="none"), run("margin", "0111", start="uniform"))


def test_every_flag_has_a_meaning():
    assert set(audit.MEANING) == {
        "as_published", "blackbox_wins", "dynamic", "false_claims", "limited", "losses_disagree", "no_adaptive",
        "not_monotone_steps",
        "out_of_range", "probability_outputs", "robust_ge_clean", "single_step_wins", "stochastic", "transfer_wins",
        "under_reach", "weak_protocol", "zero_gradients",
    }  # fmt: skip
