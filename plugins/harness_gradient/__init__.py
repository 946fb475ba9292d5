"""Gradient attacks: FGSM, BIM, iterative least-likely class, PGD and CW over one step loop, and variants of them."""

from collections.abc import Iterable, Mapping

from harness.api import FROM_DATASET, Attack, OneOf, Value, hookimpl, lazy
from harness_gradient import papers, variants

ABOUT = {
    "steps": "gradient steps",
    "step": "size of one step, on the [0, 1] pixel scale; by default the dataset's share of eps",
    "loss": "what is increased: cross-entropy, minus the margin, or minus the cross-entropy of the least likely class",
    "kappa": "for the margin: lead of another class, in logits, beyond which nothing is gained; inf for no limit",
    "start": "where a run starts: drawn uniformly from the ball, or the image itself (none)",
    "restarts": "runs, each with its own random start; the first one that succeeds counts",
}
STEPS = (10, 20, 40, 100)
LOSSES = ("ce", "margin", "least_likely")
STARTS = ("none", "uniform")
AALP = ("paper:aalp-v1", "paper:aalp-v2")
PAPERS = {
    "iter_ll10": AALP[:1],
    "pgd-20": (*AALP, "paper:tpap[step=3/1000]"),
    "pgd-40": (*AALP, "paper:ancra[step=7/1000]"),
    "pgd-100": (*AALP, "paper:tpap[step=7/10000]"),
}
"""The papers' suites, with the printed settings. AALP's two versions share fgsm, pgd and cw_inf (kappa 50)."""
BUDGETS = {"paper:tpap": "linf:8/255", "paper:ancra": "linf:8/255"}
"""The budgets of the scripts of both papers, on every dataset. AALP prints one for each dataset: the dataset's own."""


def _sign_ascent(
    name: str,
    steps: int,
    loss: str,
    start: str,
    *,
    paper: str,
    summary: str,
    suites: tuple[str, ...] = (),
    general: bool = True,
    trial: Mapping[str, Value] | None = None,
) -> Attack:
    return Attack(
        name=name,
        run=lazy("harness_gradient.engine:pgd"),
        threats=("linf",),
        params={
            "steps": steps,
            "step": FROM_DATASET,
            "loss": OneOf((loss, *(other for other in LOSSES if other != loss))),
            "kappa": float("inf"),
            "start": OneOf((start, *(other for other in STARTS if other != start))),
            "restarts": 1,
        },
        about=ABOUT,
        prefix="steps",
        cost=2 * steps,
        trial=trial or {},
        groups=(*(("all", "linf", "fast")[: 3 if steps <= 20 else 2] if general else ()), *PAPERS.get(name, suites)),
        budgets={
            group: threat
            for group, threat in BUDGETS.items()
            if any(suite.partition("[")[0] == group for suite in PAPERS.get(name, ()))
        },
        paper=paper,
        summary=summary,
    )


@hookimpl
def harness_attacks() -> Iterable[Attack]:
    """Offer the clean baseline, the attacks of the step loop, their variants, and papers' versions."""
    yield Attack(
        name="clean",
        run=lazy("harness_gradient.engine:clean"),
        threats=("none",),
        access="decision",
        cost=0,
        groups=("all", "fast", *AALP, "paper:tpap", "paper:ancra", "paper:simple-structure"),
        summary="the unchanged image: clean accuracy",
    )
    yield Attack(
        name="fgsm",
        run=lazy("harness_gradient.engine:fgsm"),
        threats=("linf",),
        cost=2,
        groups=("all", "linf", "fast", *AALP, "paper:tpap"),
        budgets={"paper:tpap": BUDGETS["paper:tpap"]},
        paper="Goodfellow et al. 2015, arXiv:1412.6572",
        summary="one step of size eps along the sign of the gradient",
    )
    yield _sign_ascent(
        "bim", 10, "ce", "none",
        paper="Kurakin et al. 2017, arXiv:1607.02533",
        summary="iterated FGSM from the image itself",
    )  # fmt: skip
    yield _sign_ascent(
        "iter_ll10", 10, "least_likely", "none",
        paper="Kurakin et al. 2017, arXiv:1611.01236",
        summary="ten steps towards the class that the clean image makes least likely",
    )  # fmt: skip
    yield _sign_ascent(
        "pgd-7", 7, "ce", "uniform",
        paper=variants.MADRY,
        summary="seven steps up the cross-entropy, as AALP trains on CIFAR-10 and splits its images there",
        general=False,
        trial={"steps": 10},
    )  # fmt: skip
    for steps in STEPS:
        yield _sign_ascent(
            f"pgd-{steps}", steps, "ce", "uniform",
            suites=AALP,
            paper=variants.MADRY,
            summary=f"{steps} steps up the cross-entropy from a random start in the ball",
        )  # fmt: skip
    for steps in STEPS:
        yield _sign_ascent(
            f"cw_inf-{steps}", steps, "margin", "uniform",
            suites=tuple(f"{suite}[kappa=50]" for suite in AALP),
            paper=f"{variants.MADRY}, with the loss of Carlini and Wagner 2017, arXiv:1608.04644",
            summary=f"{steps} steps down the margin from a random start in the ball",
        )  # fmt: skip
    yield from variants.attacks()
    yield from papers.attacks()
