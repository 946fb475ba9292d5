"""Threat models are read exactly and written back."""

import random
from fractions import Fraction

import pytest

from harness.errors import UsageError
from harness.types import ThreatModel


@pytest.mark.parametrize(
    ("text", "kind", "eps"),
    [
        ("linf:8/255", "linf", Fraction(8, 255)),
        ("linf:0.031", "linf", Fraction(31, 1000)),
        ("linf:.5", "linf", Fraction(1, 2)),
        ("l2:1.5", "l2", Fraction(3, 2)),
        ("l2:1e-3", "l2", Fraction(1, 1000)),
        ("l0:24", "l0", Fraction(24)),
        ("linf:16/510", "linf", Fraction(8, 255)),
        ("linf:0", "linf", Fraction(0)),
        ("  linf:8/255\n", "linf", Fraction(8, 255)),
        ("none", "none", None),
        ("unbounded", "unbounded", None),
    ],
)
def test_parse(text, kind, eps):
    assert ThreatModel.parse(text) == ThreatModel(kind=kind, eps=eps)


def test_8_255_and_0_031_are_two_budgets():
    fraction, decimal = ThreatModel.parse("linf:8/255"), ThreatModel.parse("linf:0.031")
    assert fraction != decimal
    assert str(fraction) == "linf:8/255"
    assert str(decimal) == "linf:31/1000"
    assert fraction.eps != Fraction(8 / 255), "never through a float"


def test_equal_budgets_are_one_whatever_they_look_like():
    texts = ("linf:0.03", "linf:3/100", "linf:6/200", "linf:3e-2", " linf:0.030 ")
    assert {str(ThreatModel.parse(text)) for text in texts} == {"linf:3/100"}
    assert len({ThreatModel.parse(text) for text in texts}) == 1


def test_what_is_written_is_read_back():
    random_state = random.Random(1)
    for _ in range(300):
        eps = Fraction(random_state.randint(0, 10**6), random_state.randint(1, 10**6))
        threat = ThreatModel(kind=random_state.choice(["linf", "l2", "semantic-x"]), eps=eps)
        assert ThreatModel.parse(str(threat)) == threat
    assert ThreatModel.parse(str(ThreatModel(kind="none"))) == ThreatModel(kind="none")


def test_decimals_are_exact():
    for digits in range(1, 40):
        eps = ThreatModel.parse("linf:0." + "1" * digits).eps
        assert eps.numerator * 10**digits == int("1" * digits) * eps.denominator


@pytest.mark.parametrize(
    "budget", ["", "x", "8/", "/255", "8/255/2", "8/0", "0/0", "inf", "nan", "0,03", "8:255", "1/2.5", "0x1", "--1"]
)
def test_garbage_is_refused_with_an_example(budget):
    with pytest.raises(UsageError, match="write kind:eps, as in linf:8/255") as caught:
        ThreatModel.parse(f"linf:{budget}")
    assert f"'linf:{budget}'" in str(caught.value)


@pytest.mark.parametrize("budget", ["-1", "-8/255", "-0.031", "-1e-9"])
def test_a_negative_budget_is_refused(budget):
    with pytest.raises(UsageError, match="cannot be negative"):
        ThreatModel.parse(f"linf:{budget}")


def test_usage_errors_end_with_code_2():
    assert UsageError.exit_code == 2


def test_a_radius_is_the_budget_as_a_float_and_asks_for_one():
    assert ThreatModel.parse("linf:8/255").radius == 8 / 255
    with pytest.raises(UsageError, match="'unbounded' has no budget"):
        _ = ThreatModel.parse("unbounded").radius
