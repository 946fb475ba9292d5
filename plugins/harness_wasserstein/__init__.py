"""Wasserstein adversaries, who move the mass of each channel a little: the threat kind and two ascents."""

from collections.abc import Iterable
from fractions import Fraction

from harness.api import Attack, OneOf, ThreatKind, hookimpl, lazy

PAPER = "Wu, Wang and Yu 2020, arXiv:2008.02883"


@hookimpl
def harness_threat_models() -> Iterable[ThreatKind]:
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
    yield Attack(
        name="fwa",
        run=lazy("harness_wasserstein.frank_wolfe:fwa"),
        threats=("wasserstein",),
        params={
            "steps": 100,
            "window": 5,
            "gamma": 1e-3,
            "loss": OneOf(("ce", "margin")),
            "momentum": 0.9,
            "price": 0.1,
        },
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
        params={"steps": 100, "low": -2, "high": 2, "gamma": 1e-3, "halvings": 30},
        cost=105,
        verdicts_only=True,
        trial={"steps": 20},
        as_published=True,
        paper=PAPER,
        summary="Frank-Wolfe ascent over transport plans, scored as published: pixel values may exceed 1",
    )
    yield Attack(
        name="fwa_tpap",
        run=lazy("harness_wasserstein.frank_wolfe:published"),
        threats=("wasserstein_unclamped",),
        params={"steps": 20, "low": -2, "high": 1, "gamma": 3e-3, "halvings": 15},
        verdicts_only=True,
        cost=25,
        as_published=True,
        groups=("paper:tpap",),
        paper=PAPER + ", as the TPAP experiments call it",
        summary="fwa_paper with 20 steps and a lopsided 4x4 window, as TPAP runs it (with budget 8/255)",
    )
    yield Attack(
        name="wpgd",
        run=lazy("harness_wasserstein.projected:wpgd"),
        threats=("wasserstein",),
        params={"steps": 300, "window": 5, "lr": 0.1, "momentum": 0.9, "price": 0.1},
        cost=305,
        trial={"steps": 10},
        groups=("wasserstein",),
        paper=PAPER,
        summary="projected gradient ascent over transport plans; the final image is made feasible and only then counts",
    )
