"""The Wasserstein threat model, which bounds how far mass moves within a channel, and attacks by two ascents."""

from collections.abc import Iterable
from fractions import Fraction

from harness.api import Attack, OneOf, ThreatKind, Value, hookimpl, lazy

PAPER = "Wu, Wang and Yu 2020, arXiv:2008.02883"
ABOUT = {
    "steps": "gradient steps on the transport plan",
    "window": "side of the square of pixels that mass may move within, odd",
    "gamma": "weight of the entropy in the linear problem of each step, for gradients with a largest entry of 1",
    "loss": "what is increased: cross-entropy, or minus the margin",
    "momentum": "weight of earlier gradients in the running average, from 0 (none) to below 1",
    "price": "rise of a pixel's price at each step, for each unit of intensity above 1; 0 for none",
    "low": "smallest offset that mass may move by along each axis, in pixels, at most 0",
    "high": "largest offset that mass may move by along each axis, in pixels, at least 0",
    "halvings": "bisection steps for the price of distance at each step",
    "lr": "mass moved in a step along the largest entry of the gradient, on the [0, 1] pixel scale",
}
FWA: dict[str, Value | OneOf] = {
    "steps": 100, "window": 5, "gamma": 1e-3, "loss": OneOf(("ce", "margin")), "momentum": 0.9, "price": 0.1,
}  # fmt: skip
FWA_PAPER: dict[str, Value | OneOf] = {"steps": 300, "low": -2, "high": 2, "gamma": 1e-3, "halvings": 30}
FWA_TPAP: dict[str, Value | OneOf] = {"steps": 20, "low": -2, "high": 1, "gamma": 3e-3, "halvings": 15}
WPGD: dict[str, Value | OneOf] = {"steps": 300, "window": 5, "lr": 0.1, "momentum": 0.9, "price": 0.1}


def _about(params: Iterable[str]) -> dict[str, str]:
    """Take the sentences of these parameters out of ABOUT."""
    return {parameter: ABOUT[parameter] for parameter in params}


@hookimpl
def harness_threat_models() -> Iterable[ThreatKind]:
    """Offer the threat kinds, with and without the upper bound of 1 on pixels."""
    yield ThreatKind(
        name="wasserstein",
        distance=lazy("harness_wasserstein.threat:distance"),
        verify=lazy("harness_wasserstein.threat:verify"),
        trial=Fraction(1, 4),
        summary="average distance in pixels that a unit of intensity is moved, within its channel",
    )
    yield ThreatKind(
        name="wasserstein_unclamped",
        distance=lazy("harness_wasserstein.threat:distance"),
        verify=lazy("harness_wasserstein.threat:verify_unclamped"),
        box=False,
        budget_of="wasserstein",
        trial=Fraction(1, 4),
        summary="as published: the same, and pixel values may exceed 1; never ranked",
    )


@hookimpl
def harness_attacks() -> Iterable[Attack]:
    """Offer Frank-Wolfe and projected gradient ascent, and papers' versions."""
    yield Attack(
        name="fwa",
        run=lazy("harness_wasserstein.frank_wolfe:fwa"),
        threats=("wasserstein",),
        params=FWA,
        about=_about(FWA),
        cost=105,
        verdicts_only=True,
        trial={"steps": 20},
        groups=("all", "wasserstein"),
        paper=PAPER,
        summary="Frank-Wolfe ascent over transport plans; the final image is made feasible and only then counts",
    )
    yield Attack(
        name="fwa_paper",
        run=lazy("harness_wasserstein.frank_wolfe:published"),
        threats=("wasserstein_unclamped",),
        params=FWA_PAPER,
        about=_about(FWA_PAPER),
        cost=305,
        verdicts_only=True,
        trial={"steps": 20},
        as_published=True,
        paper=PAPER,
        summary="Frank-Wolfe ascent with the 300 steps of its test script, scored as published: pixels may exceed 1",
    )
    yield Attack(
        name="fwa_tpap",
        run=lazy("harness_wasserstein.frank_wolfe:published"),
        threats=("wasserstein_unclamped",),
        params=FWA_TPAP,
        about=_about(FWA_TPAP),
        verdicts_only=True,
        cost=25,
        as_published=True,
        groups=("paper:tpap",),
        budgets={"paper:tpap": "wasserstein_unclamped:8/255"},
        paper=PAPER + ", as the TPAP experiments call it",
        summary="fwa_paper with 20 steps and a lopsided 4x4 window, as TPAP runs it, there with budget 8/255",
    )
    yield Attack(
        name="wpgd",
        run=lazy("harness_wasserstein.projected:wpgd"),
        threats=("wasserstein",),
        params=WPGD,
        about=_about(WPGD),
        cost=305,
        trial={"steps": 10},
        groups=("wasserstein",),
        paper=PAPER,
        summary="projected gradient ascent over transport plans; the final image is made feasible and only then counts",
    )
