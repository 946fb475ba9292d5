"""Random noise as a baseline: who loses to it was never attacked, and who beats an attack with it broke that attack."""

from collections.abc import Iterable

from harness.api import Attack, hookimpl, lazy

DRAWS = 10


@hookimpl
def harness_attacks() -> Iterable[Attack]:
    yield Attack(
        name="gaussian",
        run=lazy("harness_noise.draws:gaussian"),
        threats=("unbounded",),
        access="decision",
        params={"sigma": 0.1, "draws": DRAWS},
        cost=DRAWS,
        groups=("all", "unbounded", "fast", "paper:simple-structure"),
        paper="noise level of Simple Structure, arXiv:2204.11596, table 1",
        summary="normal noise: one draw, and the worst of ten",
    )
    yield Attack(
        name="uniform",
        run=lazy("harness_noise.draws:uniform"),
        threats=("linf",),
        access="decision",
        params={"draws": DRAWS},
        cost=DRAWS,
        groups=("all", "linf", "fast"),
        summary="uniform noise in the ball: one draw, and the worst of ten",
    )
