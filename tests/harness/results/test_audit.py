"""Flags: each is raised by a planted case and not by its honest neighbour."""

import pytest

from harness.results import audit
from harness.results.rows import rows
from support.records import record, record_of


def flags(*found):
    (row,) = rows(found)
    return audit.flags(row)


def cell(attack, any_="0000", last=None, steps=10, cost=10, **kwargs):
    made = record(attack, any_=any_, last=last if last is not None else any_, **{"params": {"steps": steps}, **kwargs})
    made["outcome"] |= {"forwards": 4 * cost, "backwards": 4 * cost}
    return made


def test_an_honest_row_raises_nothing():
    assert (
        flags(
            cell("fgsm", "0001", cost=1),
            cell("pgd-10", "0011"),
            cell("pgd-20", "0011", steps=20),
        )
        == {}
    )


def test_limited():
    assert "4 of 500" in flags(record(split_size=500))["limited"]


def test_robust_ge_clean():
    better = {"clean": "0001", "raw": "1111", "last": "0000", "any_": "0000"}
    assert "pgd-10" in flags(record(**better))["robust_ge_clean"]
    assert "robust_ge_clean" not in flags(record("uniform", knowledge="blackbox", **better)), "noise puts images right"


def test_a_run_that_cannot_cross_the_ball_is_no_match_for_one_step():
    one, short = cell("fgsm", "1111", cost=1), {"steps": 10, "step": "1/50"}
    assert "single_step_wins" not in flags(one, cell("pgd-10", "0001", params=short))
    assert "single_step_wins" in flags(one, cell("pgd-20", "0001", steps=20, params=short | {"steps": 20}))


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
        ("batch_dependence", 1e-3, 0.02, "batch_dependent"),
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


def ensemble(stages, any_, name="aa_standard", chance=0.1, **kwargs):
    made = cell(name, any_, **kwargs)
    made["outcome"] |= {"details": {"stage": stages}, "probes": {"chance": chance}}
    return made


def test_an_ensemble_that_contains_square_does_not_hide_what_square_breaks():
    """pgd leaves three, aa_standard one: by gradients (stages 1 to 3), or by Square (stage 4)."""
    pgd_10, square = cell("pgd-10", "0001"), cell("square", "0111", knowledge="blackbox")
    assert "blackbox_wins" not in flags(pgd_10, square, ensemble([0.0, 2, 2, 1], "0111"))
    assert "square breaks 2 of 4" in flags(pgd_10, square, ensemble([0.0, 4, 4, 1], "0111"))["blackbox_wins"]
    assert "blackbox_wins" not in flags(pgd_10, square, ensemble([0.0, 4, 3, 1], "0111")), "one image may be luck"
    alone = flags(pgd_10, ensemble([0.0, 4, 4, 1], "0111"))
    assert alone["blackbox_wins"].startswith("Square in aa_standard breaks 2 of 4"), "no run of Square is needed"
    assert "blackbox_wins" not in flags(cell("pgd-10", "0111"), ensemble([0.0, 4, 4, 1], "0111")), "pgd breaks them too"
    plus = ensemble([0.0, 4, 6, 5], "0111", "aa_plus"), ensemble([0.0, 4, 4, 6], "0111", "aa_plus[queries=9]")
    assert ["blackbox_wins" in flags(pgd_10, one) for one in plus] == [False, True]


@pytest.mark.parametrize(("classes", "place"), [(2, 4), (3, 6), (4, 5)])
def test_the_place_of_square_among_few_classes(classes, place):
    def found(stage):
        return flags(cell("pgd-10", "0001"), ensemble([0.0, stage, stage, 1], "0111", "aa_few_class", 1 / classes))

    assert [stage for stage in range(1, 7) if "blackbox_wins" in found(stage)] == [place]


def test_shards_keep_what_each_stage_broke():
    shards = [ensemble([4.0, 4, 1, 0], "1110", span=(4 * i, 4 * i + 4), split_size=8) for i in range(2)]
    pgd_10 = [cell("pgd-10", "0000", span=(4 * i, 4 * i + 4), split_size=8) for i in range(2)]
    assert "breaks 4 of 8" in flags(*shards, *pgd_10)["blackbox_wins"]


def test_who_asks_for_no_gradient_is_not_led_by_any():
    """Square on an adaptive stand-in knows the defense, and follows no gradient."""
    queried = cell("square@bpda", "1111", on="bpda", knowledge="adaptive")
    queried["outcome"]["backwards"] = 0
    assert "blackbox_wins" in flags(cell("pgd-10", "0011"), queried, cell("rays", "1111", knowledge="blackbox"))
    assert "square@bpda breaks 2 of 4" in flags(cell("pgd-10", "0011"), queried)["blackbox_wins"]


def test_attacks_on_fewer_images_are_compared_on_those_that_both_have():
    def long(name, any_, **kwargs):
        return cell(name, any_, clean="1" * 8, raw="1" * 8, span=(0, 8), split_size=8, **kwargs)

    short = cell("square", "0111", split_size=8, knowledge="blackbox")
    assert "breaks 3 of 4" in flags(short, long("pgd-10", "00001111"))["blackbox_wins"]
    assert "blackbox_wins" not in flags(short, long("pgd-10", "01110000"))
    first = long("square", "00011111", knowledge="blackbox")
    assert "blackbox_wins" not in flags(first, cell("pgd-10", "0001", split_size=8)), (
        "what pgd never saw is not counted"
    )


def test_two_losses_that_disagree():
    def pgd(loss, any_, steps=10, **more):
        return cell(f"{loss}-{steps}", any_, params={"loss": loss, "steps": steps, **more})

    assert "losses_disagree" not in flags(pgd("ce", "0001"), pgd("margin", "0001"))
    assert "ce-10 75.0" in flags(pgd("ce", "0001"), pgd("margin", "0111"))["losses_disagree"]
    longest = pgd("ce", "0111", 20), pgd("margin", "0111", 20)
    assert "losses_disagree" not in flags(pgd("ce", "0001"), pgd("margin", "0111"), *longest), "the longest runs count"
    assert "losses_disagree" not in flags(pgd("ce", "0001", start="none"), pgd("margin", "0111", start="uniform"))


def pgd(steps=10, any_="0000", restarts=1, **kwargs):
    name = f"pgd-{steps}" + (f"[restarts={restarts}]" if restarts > 1 else "")
    return cell(name, any_, params={"steps": steps, "restarts": restarts, "step": "1/50"}, **kwargs)


HUNDRED = ("1" * 30 + "0" * 70, "1" * 32 + "0" * 68, "1" * 31 + "0" * 69)
"""70, 68 and 69 of a hundred images stand."""


def hundred(make, any_, **kwargs):
    return make(any_=any_, last=any_, clean="1" * 100, raw="1" * 100, span=(0, 100), split_size=100, **kwargs)


@pytest.mark.parametrize(("flag", "less", "more"), [
    ("restarts_matter", {"restarts": 1}, {"restarts": 10}), ("steps_matter", {"steps": 100}, {"steps": 1000}),
])  # fmt: skip
def test_what_was_given_more_may_win_one_point(flag, less, more):
    base = {"steps": 100, "restarts": 1}

    def pair(bits, **changed):
        return flags(hundred(pgd, HUNDRED[0], **base | less), hundred(pgd, bits, **base | more, **changed))

    assert "70.0" in pair(HUNDRED[1])[flag]
    assert "68.0" in pair(HUNDRED[1])[flag]
    assert flag not in pair(HUNDRED[2]), "one point is allowed"
    assert flag not in pair(HUNDRED[1], threat="linf:1/10"), "another budget"
    assert flag not in pair(HUNDRED[1], on="base"), "another network"


def test_runs_that_are_known_to_be_short_may_gain_from_steps():
    assert "steps_matter" not in flags(hundred(pgd, HUNDRED[0], steps=10), hundred(pgd, HUNDRED[1], steps=100))


def test_a_larger_budget_leaves_no_more_standing():
    smaller, larger = (
        cell("pgd-10", "0111", threat="linf:1/10"),
        cell("pgd-10", "0001", threat="linf:1/5"),
    )
    assert "pgd-10 25.0 at linf:1/10, 75.0 at linf:1/5" in flags(smaller, larger)["eps_floor"]
    assert flags(cell("pgd-10", "0001", threat="linf:1/10"), cell("pgd-10", "0111", threat="linf:1/5")) == {}
    assert flags(smaller, cell("pgd-10", "0011", threat="linf:1/5")) == {}, "one image may be luck"
    assert flags(smaller, cell("pgd-10", "0001", threat="l2:1/5")) == {}, "another kind"
    by_size = cell("pgd-10", "0111", threat="linf:1/2"), cell("pgd-10", "0001", threat="linf:3/10")
    assert flags(*by_size) == {}, "budgets are numbers, not text"


def test_another_step_is_no_larger_budget():
    def run(any_, step, threat="linf:3/10"):
        return cell(f"pgd-10[step={step}]", any_, threat=threat, params={"steps": 100, "step": step})

    strong, weak = run("0111", "3/40"), run("0001", "1/30")
    for order in ((strong, weak), (weak, strong)):
        assert "eps_floor" not in flags(*order)
    assert "eps_floor" not in flags(run("0111", "1/10", "linf:1/5"), weak), "a shorter step may reach less"
    assert "eps_floor" in flags(run("0111", "1/45", "linf:1/5"), weak)


@pytest.mark.parametrize(("standing", "raised"), [(0.26, False), (0.27, True)])
def test_what_stands_where_every_image_is_within_reach(standing, raised):
    found = flags(probed(chance=0.25, standing_at_eps_1=standing))
    assert ("eps_floor" in found) == raised
    if raised:
        assert found["eps_floor"] == "steps at eps 1 27.0, chance 25.0"


def test_an_attack_with_the_whole_box_as_its_budget_is_held_to_the_same_floor():
    def under(any_):
        made = cell("pgd-10", any_, threat="linf:1")
        made["outcome"]["probes"] = {"chance": 0.25}
        return flags(made)

    assert "pgd-10 at linf:1 50.0" in under("0011")["eps_floor"]
    assert under("0111") == {}


def test_the_share_of_zero_pixels_stands_beside_the_images_without_a_gradient():
    found = flags(probed(zero_gradient_ce=0.5, zero_gradient_pixels=0.61))
    assert found == {"zero_gradients": "50 % of images under cross-entropy, 0 % under margin; 61 % of all pixels"}
    assert flags(probed(zero_gradient_pixels=0.9)) == {}, "pixels alone are no sign"


def test_a_forward_that_takes_labels():
    assert list(flags(probed(labels_taken=1.0))) == ["train_labels_at_test"]
    assert flags(probed(labels_taken=0.0)) == {}


def test_majorities_are_told_with_the_noise():
    assert "11 passes decide" in flags(record(flags={"stochastic": 1}, passes=11))["stochastic"]


def test_a_gate_is_told_and_so_is_who_knew_of_it():
    unknown = flags(record("pgd-10", gated=True))
    assert unknown["prediction_gated"] == "0 of 1 attacks are adaptive"
    assert unknown["no_adaptive"] == "no adaptive evaluation"
    known = flags(record("pgd-10", gated=True), record("pgd-10@bpda", gated=True, on="bpda", knowledge="adaptive"))
    assert known["prediction_gated"] == "1 of 2 attacks are adaptive"
    assert "no_adaptive" not in known


@pytest.mark.parametrize(("on", "knowledge", "raised"), [
    ("", "static", False), ("", "adaptive", False), ("bpda", "adaptive", False), ("", "blackbox", False),
    ("base", "static", True), ("other", "transfer", True), ("", "transfer", True),
])  # fmt: skip
def test_images_made_against_something_else_than_what_is_deployed(on, knowledge, raised):
    found = flags(record("pgd-10", any_="0000", last="0000"), record("x", on=on, knowledge=knowledge, any_="0000",
                  last="0000"))  # fmt: skip
    assert found == ({"static_set": "1 of 2 attacks: x"} if raised else {})


def test_attacks_without_a_budget_are_told_with_their_distance():
    far = record("sta", threat="unbounded", ranked=False)
    far["outcome"]["distances"] = [0.1, 0.2, 0.4, 0.8]
    assert flags(far)["unbounded_attack"] == "sta median distance 0.3"
    assert "unbounded_attack" not in flags(record("clean", threat="none"), record())
    assert "unbounded_attack" not in flags(record(threat="no_box:1/5", ranked=False)), "a budget binds it"


def test_images_that_the_threat_model_does_not_allow():
    assert flags(record(flags={"out_of_range": 3}))["attack_fallback"] == "pgd-10: 3 of 4 images"
    (row,) = rows([record()])
    assert audit.flags(row, ["sta"])["attack_fallback"] == "sta: refused"
    assert "attack_fallback" not in audit.flags(row)


def overfitting(single, several):
    """The record of the analysis, beside a cell of the same row."""
    beside = record()["identity"]
    head = {name: beside[name] for name in ("schema", "dataset", "data_sha256", "defense", "arch", "recipe",
            "train_seed", "weights_sha256", "mandatory", "gated", "defense_origin")}  # fmt: skip
    head |= {"kind": "analysis", "analysis": "overfitting", "analysis_revision": 1, "n": 4}
    numbers = {"fgsm_accuracy": single, "pgd20_accuracy": several}
    quantities = {name: {"value": value, "n": 4, "unit": "%"} for name, value in numbers.items()}
    return record_of(head, {"quantities": quantities})


@pytest.mark.parametrize(("single", "several", "flag"), [
    (88.4, 0.6, "co_detected"), (78.2, 64.8, "co_missing"), (60.0, 20.0, "co_missing"), (60.0, 19.9, "co_detected"),
])  # fmt: skip
def test_the_network_under_a_defense_has_overfitted_or_should_have(single, several, flag):
    found = flags(record(), overfitting(single, several))
    assert {"co_detected", "co_missing"} & set(found) == {flag}
    assert f"fgsm {single:.1f}, pgd-20 {several:.1f}" in found[flag]


def test_overfitting_is_seen_from_cells_where_nothing_is_put_around_the_network():
    single, several = cell("fgsm", "0000", cost=1), cell("pgd-20", "0011", steps=20)
    assert flags(single, several)["co_detected"] == "fgsm 100.0, pgd-20 50.0"
    assert flags(single, cell("pgd-10", "0011")) == {}, "only twenty steps are the definition"
    on_base = [
        cell("fgsm@base", "0000", on="base", cost=1),
        cell("pgd-20@base", "0011", steps=20, on="base"),
    ]
    assert "co_detected" not in flags(*on_base), "judged on what is deployed, it tells nothing of the base"
    for pair in ((on_base[0], several), (single, on_base[1])):
        assert "co_detected" not in flags(*pair), "two networks"
    gated = cell("fgsm", "0000", cost=1, gated=True), cell("pgd-20", "0011", steps=20, gated=True)
    assert "co_detected" not in flags(*gated)
    assert "co_missing" not in flags(cell("fgsm"), cell("pgd-20", steps=20)), "nobody needs it to overfit"


def test_runs_on_stand_ins_are_compared_among_themselves():
    base = {"on": "base", "knowledge": "static"}
    broken = cell("pgd-20", "1111", steps=20)
    assert "not_monotone_steps" not in flags(broken, cell("pgd-40@base", "0011", steps=40, **base))
    rising = (
        cell("pgd-20@base", "0111", steps=20, **base),
        cell("pgd-40@base", "0001", steps=40, **base),
    )
    assert "pgd-40@base leaves 2 of 4" in flags(*rising)["not_monotone_steps"]
    one_step = cell("fgsm@base", "0111", cost=1, **base)
    assert "single_step_wins" not in flags(one_step, cell("pgd-10", "0001")), "one on the base, one on what is deployed"
    assert "fgsm@base" in flags(one_step, cell("pgd-10@base", "0001", **base))["single_step_wins"]
    ce = cell("pgd-10@base", "0001", params={"loss": "ce", "steps": 10}, **base)
    by_margin = cell("cw_inf-10", "0111", params={"loss": "margin", "steps": 10})
    assert "losses_disagree" not in flags(ce, by_margin)


def test_who_knows_the_defense_counts_as_white_box_and_who_attacks_the_base_does_not():
    weak = cell("square", "0011", knowledge="blackbox")
    adaptive = cell("pgd-10@bpda", "0011", on="bpda", knowledge="adaptive")
    static = cell("pgd-10@base", "0011", on="base")
    assert "blackbox_wins" in flags(weak, cell("pgd-10"))
    assert "blackbox_wins" not in flags(weak, cell("pgd-10"), adaptive)
    assert "blackbox_wins" in flags(weak, cell("pgd-10"), static), "an attack on the base excuses nothing"
    assert "pgd-10@base breaks 2 of 4" in flags(static, cell("pgd-10"))["transfer_wins"]


def test_every_flag_has_a_meaning_that_tells_its_threshold():
    assert set(audit.MEANING) == {
        "as_published", "attack_fallback", "batch_dependent", "blackbox_wins", "co_detected", "co_missing", "dynamic",
        "eps_floor", "false_claims", "limited", "losses_disagree", "no_adaptive", "not_monotone_steps", "out_of_range",
        "prediction_gated", "probability_outputs", "restarts_matter", "robust_ge_clean", "single_step_wins",
        "static_set", "steps_matter", "stochastic", "train_labels_at_test", "transfer_wins", "unbounded_attack",
        "under_reach", "weak_protocol", "zero_gradients",
    }  # fmt: skip
    for name, number in {
        "co_detected": "40",
        "restarts_matter": "1",
        "blackbox_wins": "0.2",
        "steps_matter": "100",
    }.items():
        assert f" {number} " in audit.MEANING[name]


def test_what_breaks_a_stand_in_only_is_no_false_claim():
    assert "false_claims" in flags(record("a", flags={"false_claims": 3}))
    assert "false_claims" not in flags(record("a@base", on="base", flags={"false_claims": 3}))


def test_what_one_pass_of_a_random_network_got_wrong_is_no_false_claim():
    assert "false_claims" not in flags(record("a", passes=11, flags={"false_claims": 3, "stochastic": 1}))
