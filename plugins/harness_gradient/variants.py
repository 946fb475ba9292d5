"""PGD in l2, with several targets or step sizes, on rescaled logits and over draws; momentum; transfer."""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from harness.api import FROM_DATASET, Attack, OneOf, lazy

MADRY = "Madry et al. 2018, arXiv:1706.06083"


def _variant(
    name: str, params: Mapping[str, Any], *, cost: int, paper: str, summary: str,
    losses: tuple[str, str] = ("ce", "margin"), logits: tuple[str, str] = ("plain", "rescaled"), eot: int = 1,
    trial: Mapping[str, int], norm: str = "linf",
) -> Attack:  # fmt: skip
    """PGD of 40 steps as the worst of several runs, or on something else than plain logits."""
    return Attack(
        name=name,
        run=lazy("harness_gradient.worst:worst"),
        threats=(norm,),
        params={
            "steps": 40, **params, "loss": OneOf(losses), "logits": OneOf(logits), "start": OneOf(("uniform", "none")),
            "restarts": 1, "eot": eot,
        },
        cost=cost,
        trial=trial,
        groups=(norm,),
        paper=paper,
        summary=summary,
    )  # fmt: skip


def _momentum(
    name: str, run: str, params: Mapping[str, Any], *, groups: tuple[str, ...], paper: str, summary: str,
    surrogate: bool = False,
) -> Attack:  # fmt: skip
    """Ten steps of eps / 10 with gradients added up; on a surrogate, without a question to the target."""
    return Attack(
        name=name,
        run=lazy(f"harness_gradient.{run}"),
        threats=("linf",),
        access="decision" if surrogate else "gradient",
        params={"steps": 10, "step": None, "decay": 1.0, **params},
        needs=("surrogate",) if surrogate else (),
        cost=20,
        groups=groups,
        paper=paper,
        summary=summary,
    )


def attacks() -> Iterable[Attack]:
    """Every variant that general suites run."""
    yield _variant(
        "pgd_l2", {"step": FROM_DATASET}, norm="l2", cost=80, trial={"steps": 20},
        paper=MADRY,
        summary="40 steps along the gradient's direction in the l2 ball, from a random start in it",
    )  # fmt: skip
    yield _variant(
        "pgd_t-40", {"step": FROM_DATASET, "target": OneOf(("each", "least_likely", "random")), "targets": 9},
        losses=("margin", "ce"), cost=720, trial={"steps": 10, "targets": 3},
        paper="Gowal et al. 2019, arXiv:1910.09338",
        summary="PGD towards each of the nine likeliest other classes in turn, the worst of them",
    )  # fmt: skip
    yield _variant(
        "pgd_grid-40", {"shares": "1/20:1/10:1/4:1/2"}, cost=320, trial={"steps": 10},
        paper=MADRY,
        summary="PGD with steps of 1/20, 1/10, 1/4 and 1/2 of eps in turn, the worst of them",
    )  # fmt: skip
    yield _variant(
        "pgd_rescaled-40", {"step": FROM_DATASET}, logits=("rescaled", "plain"), cost=80, trial={"steps": 10},
        paper=MADRY,
        summary="PGD on logits of standard deviation 1, whose cross-entropy cannot saturate",
    )  # fmt: skip
    yield _variant(
        "pgd_eot-40", {"step": FROM_DATASET}, eot=10, cost=800, trial={"steps": 10, "eot": 3},
        paper="Athalye et al. 2018, arXiv:1802.00420",
        summary="PGD for random models: ten draws averaged at each step, and the majority decides",
    )  # fmt: skip
    yield _momentum(
        "mi_fgsm", "momentum:mi_fgsm", {"start": OneOf(("none", "uniform"))}, groups=("all", "linf", "fast"),
        paper="Dong et al. 2018, arXiv:1710.06081",
        summary="ten steps of eps / 10 along the sign of all gradients so far",
    )  # fmt: skip
    diverse = {"probability": 0.5, "enlarge": Fraction(330, 299), "pad": 0.0, "labels": OneOf(("true", "predicted"))}
    yield _momentum(
        "dim", "transfer:transfer", diverse, groups=("transfer", "linf"), surrogate=True,
        paper="Xie et al. 2019, arXiv:1803.06978",
        summary="MI-FGSM on another network, with inputs resized at random",
    )  # fmt: skip
    yield _momentum(
        "ti_dim", "transfer:transfer", {**diverse, "probability": 0.7, "kernel": 0, "nsig": 3.0},
        groups=("all", "linf", "transfer"), surrogate=True,
        paper="Dong et al. 2019, arXiv:1904.02884",
        summary="DIM with gradients smoothed by a Gaussian",
    )  # fmt: skip
