"""First-order linf attacks over one engine: fgsm, bim, iter_ll, pgd and cw_inf."""

from collections.abc import Iterable

from harness.api import FROM_DATASET, Attack, OneOf, hookimpl, lazy

STEPS = (10, 20, 40, 100)
LOSSES = ("ce", "margin", "least_likely")
STARTS = ("none", "uniform")


def _climb(name: str, steps: int, loss: str, start: str, *, paper: str, summary: str) -> Attack:
    return Attack(
        name=name,
        run=lazy("harness_gradient.engine:climb"),
        threats=("linf",),
        params={
            "steps": steps,
            "step": FROM_DATASET,
            "loss": OneOf((loss, *(other for other in LOSSES if other != loss))),
            "kappa": float("inf"),
            "start": OneOf((start, *(other for other in STARTS if other != start))),
            "restarts": 1,
        },
        prefix="steps",
        groups=("all", "linf", "fast") if steps <= 20 else ("all", "linf"),
        paper=paper,
        summary=summary,
    )


@hookimpl
def harness_attacks() -> Iterable[Attack]:
    yield Attack(
        name="clean",
        run=lazy("harness_gradient.engine:clean"),
        threats=("none",),
        access="decision",
        groups=("all", "fast"),
        summary="the unchanged image: clean accuracy",
    )
    yield Attack(
        name="fgsm",
        run=lazy("harness_gradient.engine:fgsm"),
        threats=("linf",),
        groups=("all", "linf", "fast"),
        paper="Goodfellow et al. 2015, arXiv:1412.6572",
        summary="one step of size eps along the sign of the gradient",
    )
    yield _climb(
        "bim", 10, "ce", "none",
        paper="Kurakin et al. 2017, arXiv:1607.02533",
        summary="iterated FGSM from the image itself",
    )  # fmt: skip
    yield _climb(
        "iter_ll10", 10, "least_likely", "none",
        paper="Kurakin et al. 2017, arXiv:1611.01236",
        summary="ten steps towards the class that the clean image makes least likely",
    )  # fmt: skip
    for steps in STEPS:
        yield _climb(
            f"pgd-{steps}", steps, "ce", "uniform",
            paper="Madry et al. 2018, arXiv:1706.06083",
            summary=f"{steps} steps up the cross-entropy from a random start in the ball",
        )  # fmt: skip
    for steps in STEPS:
        yield _climb(
            f"cw_inf-{steps}", steps, "margin", "uniform",
            paper="Madry et al. 2018, arXiv:1706.06083, with the loss of Carlini and Wagner 2017, arXiv:1608.04644",
            summary=f"{steps} steps down the margin from a random start in the ball",
        )  # fmt: skip
