"""How close is close enough: tolerances in the unit of what is printed, at their edges."""

import pytest

from harness.errors import UsageError
from harness.leaderboard import printed
from harness.leaderboard.tolerance import Tolerance, read

HEAD = ",".join(printed.FIELDS)


def value(folder, text, unit):
    (folder / "paper.csv").write_text(f"{HEAD}\nP,1,d,n,ours,pgd,m,{text},{unit},\n")
    ((found,),) = printed.read(folder).values()
    return found


@pytest.mark.parametrize(
    ("text", "unit", "low", "high"),
    [
        ("96.92", "percent", 95.92, 97.92),
        ("0.9692", "fraction", 95.92, 97.92),
        ("0.1", "percent", -0.9, 1.1),
        ("93", "percent", 92.0, 94.0),
        # A hundredth of what is printed, in any other unit ...
        ("161.5", "tflop_per_epoch", 159.885, 163.115),
        ("4.1833", "nats_unknown_scale", 4.141467, 4.225133),
        ("-4.1833", "nats_unknown_scale", -4.225133, -4.141467),
        # ... but never less than the digit that is printed last can tell.
        ("0.14", "nats_unknown_scale", 0.135, 0.145),
        ("2", "million", 1.5, 2.5),
        ("1e2", "million", 50.0, 150.0),
        ("0", "s_per_epoch", -0.5, 0.5),
    ],
)
def test_a_number_is_close_up_to_the_edge_and_not_beyond(tmp_path, text, unit, low, high):
    stated, tolerance = value(tmp_path, text, unit), Tolerance()
    for edge, inward in ((low, 1), (high, -1)):
        assert tolerance.allows(edge, stated)
        assert tolerance.allows(edge + inward * 1e-4, stated)
        assert not tolerance.allows(edge - inward * 1e-4, stated)


def test_a_loss_is_not_reproduced_by_any_number_within_a_point_of_it(tmp_path):
    stated = value(tmp_path, "0.1443", "nats_unknown_scale")
    close = [number / 1000 for number in range(1300) if Tolerance().allows(number / 1000, stated)]
    assert close == [0.143, 0.144, 0.145]


def test_a_percentage_printed_without_decimals_is_as_wide_as_its_rounding(tmp_path):
    stated = value(tmp_path, "55", "percent")
    assert Tolerance(points=0.2).allows(55.5, stated)
    assert not Tolerance(points=0.2).allows(55.51, stated)


def test_what_is_left_out_is_the_default_and_a_number_is_points():
    board = read({"relative": 0.05}, "here", Tolerance())
    assert board == Tolerance(points=1.0, relative=0.05)
    assert read({"points": 2}, "here", board) == Tolerance(points=2.0, relative=0.05)
    assert read(0.5, "here", Tolerance()) == Tolerance(points=0.5, relative=0.01)
    assert read({}, "here", board) == board
    assert board.in_words == "1 points, or 5 % of it where it is no percentage"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"percent": 1.0}, "here: tolerance has no unit 'percent'; there are points and relative"),
        ({"points": -1}, "points = -1 must be a number from 0"),
        ({"relative": "1 %"}, "relative = 1 % must be a number from 0"),
        (True, "points = True must be a number"),
        ({"points": float("inf")}, "points = inf must be"),
    ],
)
def test_a_tolerance_that_cannot_be_read_says_so(given, words):
    with pytest.raises(UsageError, match=words):
        read(given, "here", Tolerance())
