"""How far a measured number may lie from a printed one and still reproduce it, in the unit of what is printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.errors import UsageError
from harness.leaderboard.printed import PrintedValue

ROUNDING = 1e-9
"""Share of the printed value by which a difference may exceed a tolerance: sums of decimals are not exact in binary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """`points`: of percentages and fractions. `relative`: of any other unit, as a share of the printed value.

    Neither is ever less than half a unit in the last place that the paper prints.
    """

    points: float = 1.0
    relative: float = 0.01

    def allows(self, measured: float, printed: PrintedValue) -> bool:
        """Tell whether a measured number, in the printed one's unit, is as good as equal to it."""
        own = self.points if printed.unit == "percent" else self.relative * abs(printed.value)
        slack = ROUNDING * max(1.0, abs(printed.value))
        return abs(measured - printed.value) <= max(own, printed.half_step) + slack

    @property
    def in_words(self) -> str:
        """Say it as legends do."""
        return f"{self.points:g} points, or {100 * self.relative:g} % of it where it is no percentage"


def read(value: object, where: str, default: Tolerance) -> Tolerance:
    """Read `{ points = 1.0, relative = 0.01 }`; what is left out is as in `default`, and a bare number is points.

    Raises:
        UsageError: for another unit, and for what is no number from 0.
    """
    given = value if isinstance(value, Mapping) else {"points": value}
    if unknown := set(given) - {"points", "relative"}:
        raise UsageError(f"{where}: tolerance has no unit '{min(unknown)}'; there are points and relative")
    for unit, size in given.items():
        if not isinstance(size, int | float) or isinstance(size, bool) or not 0 <= size < float("inf"):
            raise UsageError(f"{where}: tolerance: {unit} = {size} must be a number from 0")
    found = {"points": default.points, "relative": default.relative, **given}
    return Tolerance(points=float(found["points"]), relative=float(found["relative"]))
