"""Variants of PGD (l2, targeted, step size grid, rescaled logits, averaged draws), MI-FGSM and transfer attacks."""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from harness.api import FROM_DATASET, Attack, OneOf, lazy

MADRY = "Madry et al. 2018, arXiv:1706.06083"
START = "where a run starts: drawn uniformly from the ball, or the image itself (none)"
ABOUT = {
    "steps": "gradient steps",
    "step": "size of one step, on the [0, 1] pixel scale; by default the dataset's share of eps",
    "shares": "step sizes tried in turn, as shares of eps, joined by colons",
    "target": "classes that runs are targeted at: each of the likeliest other ones, the least likely, or a random one",
    "targets": "for `each`: how many target classes, likeliest first",
    "loss": "what is increased: cross-entropy, or minus the margin",
    "logits": "as they are (plain), or over each example's standard deviation, so that cross-entropy cannot saturate",
    "start": START,
    "restarts": "starts, each followed by every step size and target; an image leaves at its first success",
    "eot": "evaluations of the model averaged at each point; most of them must be wrong",
}
"""What the parameters of `worst` do."""
TARGETED_LOSS = "what is increased: the target's logit minus the true one, or minus the target's cross-entropy"
L2_STEP = "length of one step (l2), for pixels in [0, 1]; by default the dataset's share of eps"
MOMENTUM_ABOUT = {
    "steps": "gradient steps",
    "step": "size of one step, on the [0, 1] pixel scale; none for eps / steps",
    "decay": "factor on the sum of earlier gradients at each step; 0 for no momentum",
    "start": START,
    "probability": "chance that an image is resized and padded at a step",
    "enlarge": "size that resized images are padded to, over the size of the image",
    "pad": "value of padded pixels, on the [0, 1] scale",
    "labels": "labels whose cross-entropy is increased: true, or predicted by the surrogate on the clean image",
    "kernel": "side of the Gaussian that smooths gradients, odd, in pixels; 0 for 15 of 299 pixels, 1 for none",
    "nsig": "standard deviations from the centre of that Gaussian to its border",
}
"""What the parameters of MI-FGSM, DIM and TI-DIM do."""


def _variant(
    name: str, params: Mapping[str, Any], *, cost: int, paper: str, summary: str,
    losses: tuple[str, str] = ("ce", "margin"), logits: tuple[str, str] = ("plain", "rescaled"), eot: int = 1,
    trial: Mapping[str, int], norm: str = "linf",
) -> Attack:  # fmt: skip
    """PGD of 40 steps as the worst of several runs, or on something else than plain logits."""
    params = {
        "steps": 40, **params, "loss": OneOf(losses), "logits": OneOf(logits), "start": OneOf(("uniform", "none")),
        "restarts": 1, "eot": eot,
    }  # fmt: skip
    own = {"step": L2_STEP} if norm == "l2" else {"loss": TARGETED_LOSS} if "target" in params else {}
    return Attack(
        name=name,
        run=lazy("harness_gradient.worst:worst"),
        threats=(norm,),
        params=params,
        about={parameter: {**ABOUT, **own}[parameter] for parameter in params},
        cost=cost,
        trial=trial,
        groups=(norm,),
        paper=paper,
        summary=summary,
    )


def _momentum(
    name: str, run: str, params: Mapping[str, Any], *, groups: tuple[str, ...], paper: str, summary: str,
    surrogate: bool = False,
) -> Attack:  # fmt: skip
    """Ten steps of eps / 10 with gradients added up; on a surrogate, without a question to the target."""
    params = {"steps": 10, "step": None, "decay": 1.0, **params}
    return Attack(
        name=name,
        run=lazy(f"harness_gradient.{run}"),
        threats=("linf",),
        access="decision" if surrogate else "gradient",
        params=params,
        about={parameter: MOMENTUM_ABOUT[parameter] for parameter in params},
        needs=("surrogate",) if surrogate else (),
        cost=20,
        groups=groups,
        paper=paper,
        summary=summary,
    )


def attacks() -> Iterable[Attack]:
    """Yield every variant that general suites run."""
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
