"""Random noise as a baseline.

A model that loses to it is not robust, and an attack that is weaker than it is broken.
"""

from collections.abc import Iterable

from harness.api import Attack, hookimpl, lazy

DRAWS = 10
ABOUT = {
    "sigma": "standard deviation of the noise, on the [0, 1] pixel scale",
    "draws": "noisy copies of each image, all of them evaluated",
}


@hookimpl
def harness_attacks() -> Iterable[Attack]:
    """Offer Gaussian and uniform noise."""
    yield Attack(
        name="gaussian",
        run=lazy("harness_noise.draws:gaussian"),
        threats=("unbounded",),
        access="decision",
        params={"sigma": 0.1, "draws": DRAWS},
        about=ABOUT,
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
        about={"draws": ABOUT["draws"]},
        cost=DRAWS,
        groups=("all", "linf", "fast"),
        summary="uniform noise in the ball: one draw, and the worst of ten",
    )
