"""Attacks that seek the smallest perturbation: DeepFool, DDN and Carlini-Wagner, and how papers ran them."""

from collections.abc import Iterable

from harness.api import Attack, hookimpl, lazy

DEEPFOOL = "Moosavi-Dezfooli et al. 2016, arXiv:1511.04599"
DDN = "Rony et al. 2019, arXiv:1811.09600"
CW = "Carlini and Wagner 2017, arXiv:1608.04644"
DDN_ABOUT = {
    "steps": "gradient steps",
    "levels": "pixel levels that images are rounded to; 0 for no rounding",
    "gamma": "share by which the radius shrinks after a success and grows after a failure",
    "init_norm": "radius (l2) before the first step, for pixels in [0, 1]",
}
CW_ABOUT = {
    "searches": "values of c that are tried, one minimisation for each",
    "iterations": "iterations of Adam for each c",
    "c0": "first weight c of the margin against the squared distance",
    "lr": "learning rate of Adam, in tanh space",
    "kappa": "lead of another class, in logits, that counts as a success",
    "abort_early": "whether an image rests until the next c once a tenth of the iterations brings no progress",
}
QUICK = "searches=5,iterations=100,c0=0.1,lr=0.05"


def _ddn(name: str, steps: int, levels: int, *, groups: tuple[str, ...], summary: str, published: str = "") -> Attack:
    return Attack(
        name=name,
        run=lazy("harness_minimal.ddn:ddn"),
        threats=("l2",),
        params={"steps": steps, "levels": levels, "gamma": 0.05, "init_norm": 1.0},
        about=DDN_ABOUT,
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
    """Offer DeepFool, DDN and the Carlini-Wagner attack, with papers' versions."""
    yield Attack(
        name="deepfool",
        run=lazy("harness_minimal.deepfool:deepfool"),
        threats=("l2", "linf"),
        params={"steps": 50, "overshoot": 0.02, "candidates": 10},
        about={
            "steps": "most steps to the boundary of the linearised classifier",
            "overshoot": "share by which the sum of all steps is stretched beyond the boundary",
            "candidates": "classes considered, the true one included: those likeliest on the clean image",
        },
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
        about=CW_ABOUT,
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
        about=CW_ABOUT,
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
        about={
            "iterations": "iterations of Adam",
            "lr": "learning rate of Adam, on the [0, 1] pixel scale",
            "distance_weight": "weight of the squared l2 distance in the loss; 0 in the script, 1 in the paper",
        },
        minimal=True,
        cost=100,
        as_published=True,
        groups=("paper:simple-structure",),
        paper=f"{CW}, as run by Simple Structure",
        summary="100 Adam iterations on the lead over the runner-up, whatever the distance, clamped at the end",
    )
