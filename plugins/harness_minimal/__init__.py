"""Attacks that seek the smallest perturbation: DeepFool, DDN and Carlini and Wagner, and how papers ran them."""

from collections.abc import Iterable

from harness.api import Attack, hookimpl, lazy

DEEPFOOL = "Moosavi-Dezfooli et al. 2016, arXiv:1511.04599"
DDN = "Rony et al. 2019, arXiv:1811.09600"
CW = "Carlini and Wagner 2017, arXiv:1608.04644"
QUICK = "searches=5,iterations=100,c0=0.1,lr=0.05"


def _ddn(name: str, steps: int, levels: int, *, groups: tuple[str, ...], summary: str, published: str = "") -> Attack:
    return Attack(
        name=name,
        run=lazy("harness_minimal.ddn:ddn"),
        threats=("l2",),
        params={"steps": steps, "levels": levels, "gamma": 0.05, "init_norm": 1.0},
        minimal=True,
        # A value that lies halfway between two levels is rounded either way.
        verdicts_only=levels > 0,
        cost=steps,
        as_published=bool(published),
        groups=groups,
        paper=f"{DDN}{published}",
        summary=summary,
    )


@hookimpl
def harness_attacks() -> Iterable[Attack]:
    yield Attack(
        name="deepfool",
        run=lazy("harness_minimal.deepfool:deepfool"),
        threats=("l2", "linf"),
        params={"steps": 50, "overshoot": 0.02, "candidates": 10},
        minimal=True,
        cost=50,
        groups=("all", "l2", "paper:simple-structure[steps=5,overshoot=0]"),
        paper=DEEPFOOL,
        summary="steps to the nearest boundary of the linearised classifier until the prediction changes",
    )
    yield _ddn(
        "ddn", 100, 256,
        groups=("all", "l2"),
        summary="gradient steps on a sphere that shrinks after success and grows after failure, in 256 pixel levels",
    )  # fmt: skip
    yield _ddn(
        "ddn_nq", 100, 0,
        groups=("l2",),
        summary="ddn without rounding to pixel levels",
    )  # fmt: skip
    yield _ddn(
        "ddn_tpap", 20, 16,
        groups=("paper:tpap",),
        published=", as run by TPAP",
        summary="ddn with 20 steps and 16 pixel levels, so few that rounding alone moves every pixel",
    )  # fmt: skip
    yield Attack(
        name="cw_l2",
        run=lazy("harness_minimal.cw:cw_l2"),
        threats=("l2",),
        params={"searches": 9, "iterations": 1000, "c0": 1e-3, "lr": 0.01, "kappa": 0.0, "abort_early": False},
        minimal=True,
        cost=500,
        trial={"searches": 5, "iterations": 50, "c0": 0.1, "lr": 0.05},
        groups=(f"all[{QUICK}]", f"l2[{QUICK}]"),
        paper=CW,
        summary="Adam on squared distance plus c times the margin, with a search for the smallest c that succeeds",
    )
    yield Attack(
        name="cw_l2_advertorch10",
        run=lazy("harness_minimal.cw:cw_l2"),
        threats=("l2",),
        params={"searches": 4, "iterations": 10, "c0": 1.0, "lr": 0.01, "kappa": 1.0, "abort_early": False},
        minimal=True,
        cost=40,
        as_published=True,
        groups=("paper:tpap",),
        paper=f"{CW}, as run by TPAP",
        summary="cw_l2 with 4 searches of 10 iterations and confidence 1: too short to reach the boundary",
    )
    yield Attack(
        name="cw_l2_adam100",
        run=lazy("harness_minimal.cw:adam_in_pixels"),
        threats=("l2",),
        params={"iterations": 100, "lr": 0.01, "distance_weight": 0.0},
        minimal=True,
        cost=100,
        as_published=True,
        groups=("paper:simple-structure",),
        paper=f"{CW}, as run by Simple Structure",
        summary="100 Adam iterations on the lead over the runner-up, whatever the distance, clamped at the end",
    )
