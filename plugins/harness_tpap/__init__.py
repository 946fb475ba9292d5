"""Test-time purification by a single adversarial step (TPAP), and the attacks and analyses written against it."""

from collections.abc import Iterable

from harness.api import FROM_DATASET, TRAINING_EPS, Analysis, Attack, Defense, OneOf, StandIn, hookimpl, lazy
from harness_tpap.recipes import OURS, RECIPES

PAPER = "Tang and Zhang 2024, arXiv:2403.11448"
PATTERNS = OneOf(("predicted", "reversed", "next_label", "random_sign"))
LOSSES = OneOf(("margin", "ce"))
ABOUT = {
    "steps": "gradient steps of each run",
    "step": "size of one step, on the [0, 1] pixel scale; by default the dataset's share of eps",
    "loss": "what is increased after purification: minus the margin, or cross-entropy",
    "restarts": "runs from random starts, besides those from other points",
    "targets": "labels held before purification besides the true one, likeliest first",
    "fractions": "points tried along each direction, evenly spaced up to its end",
}
BASES = ("fgsm_at", "pgd_at", "fast_at", "raw")
BASE = "defense whose network is purified; fgsm_at is TPAP's own, the others do not overfit to one step"
STATIC = StandIn(
    name="base", build=lazy("harness_tpap.stand_ins:base"), knowledge="static", every=True,
    summary="the network without purification: the paper's protocol",
)  # fmt: skip
STRONGEST = ("tpap_bpda", "tpap_label", "tpap_two_point", "tpap_fraction")


@hookimpl
def harness_defenses() -> Iterable[Defense]:
    """Offer TPAP, and purification by other attacks, with their stand-ins."""
    yield Defense(
        name="tpap",
        step=lazy("harness_tpap.training:step"),
        wrap=lazy("harness_tpap.purify:wrap"),
        params={
            "base": OneOf(("fgsm_at", "trades", "mart", "mart_published", "trades_published")),
            "strength": TRAINING_EPS,
            "pattern": PATTERNS,
        },
        about={
            "base": "loss that the purified network is trained with, on FGSM examples; published: as in TPAP's code",
            "strength": "size of the purifying step, on the [0, 1] pixel scale; by default the eps of training, or "
            "what the recipe says",
            "pattern": "signs of the purifying step: FGSM of the predicted label, its reverse, FGSM of the next label, "
            "or fixed random signs",
        },
        deployment=("strength", "pattern"),
        recipes=RECIPES,
        uses=("fgsm_at", "trades", "mart"),
        stand_ins=(
            STATIC,
            StandIn(
                name="bpda", build=lazy("harness_tpap.stand_ins:bpda"),
                summary="the gradient at the purified image, handed to the image, through the clamp too",
            ),
            StandIn(
                name="smooth", build=lazy("harness_tpap.stand_ins:smooth"),
                summary="tanh(10 g / mean |g|) for sign(g), differentiated through g",
            ),
            StandIn(
                name="smooth_1", build=lazy("harness_tpap.stand_ins:smooth_1"), summary="the same with 1 for 10"
            ),
            StandIn(
                name="smooth_100", build=lazy("harness_tpap.stand_ins:smooth_100"), summary="the same with 100 for 10"
            ),
        ),
        adaptive=("pgd-100@bpda", "cw_inf-100@bpda", "cw_inf-40@smooth_1", *STRONGEST),
        gated=True,
        revision=2,
        mandatory=("aa_standard", "square", "pgd-100@bpda", *STRONGEST),
        paper=PAPER,
        summary="FGSM training that overfits, and one FGSM step away from the predicted label before predicting",
    )  # fmt: skip
    yield Defense(
        name="tpap_iterated",
        step=lazy("harness_tpap.training:step_of_base"),
        wrap=lazy("harness_tpap.iterated:wrap"),
        params={"base": OneOf(BASES), "strength": TRAINING_EPS, "steps": 10},
        about={
            "base": BASE,
            "strength": "radius of the purifying attack, linf; by default the eps of training",
            "steps": "steps of the purifying PGD, from the image itself; 1 is the FGSM step of TPAP",
        },
        deployment=("strength", "steps"),
        recipes=OURS,
        uses=BASES,
        stand_ins=(
            STATIC,
            StandIn(
                name="bpda", build=lazy("harness_tpap.unrolled:bpda"),
                summary="the gradient at the purified image, handed to the image, through the clamp too",
            ),
            StandIn(
                name="unrolled", build=lazy("harness_tpap.unrolled:unrolled"),
                summary="tanh(g / mean |g|) for the signs of every step, differentiated through all of them",
            ),
        ),
        adaptive=("pgd-100@bpda", "cw_inf-100@bpda", "cw_inf-40@unrolled", *STRONGEST),
        gated=True,
        mandatory=("aa_standard", "square", "pgd-100@bpda", *STRONGEST),
        paper=f"{PAPER}: replacing the attack",
        summary="TPAP with PGD for its FGSM step, or on a network that does not overfit to one step",
    )  # fmt: skip
    yield Defense(
        name="tpap_gaussian",
        step=lazy("harness_tpap.training:step_of_base"),
        wrap=lazy("harness_tpap.iterated:wrap_noisy"),
        params={"base": OneOf(BASES), "strength": TRAINING_EPS},
        about={
            "base": BASE,
            "strength": "standard deviation of the noise, on the [0, 1] pixel scale; by default the eps of training",
        },
        deployment=("strength",),
        recipes=OURS,
        uses=BASES,
        stand_ins=(STATIC,),
        adaptive=("pgd_eot-40", "aa_rand"),
        stochastic=True,
        mandatory=("square", "pgd_eot-40", "aa_rand"),
        paper=f"{PAPER}: replacing the attack",
        summary="TPAP with Gaussian noise for its FGSM step: a purification that asks no gradient",
    )


@hookimpl
def harness_attacks() -> Iterable[Attack]:
    """Offer the attacks that know the purification."""
    for name, function, own, cost, paper, summary in (
        ("bpda", "bpda", {"restarts": 2}, 3000, "Athalye et al. 2018, arXiv:1802.00420",
         "BPDA from the static adversarial image, the image itself and random points"),
        ("label", "label_controlled", {"targets": 3}, 3000, "",
         "wrong after purification while the label before it is held, the true one or another"),
        ("two_point", "two_point", {"restarts": 1}, 1500, "", "wrong before purification and after it"),
        ("fraction", "step_fraction", {"fractions": 8}, 1000, "Kim et al. 2021, arXiv:2010.01799",
         "part of the way along one-step, iterated and random directions, then BPDA"),
    ):  # fmt: skip
        yield Attack(
            name=f"tpap_{name}",
            run=lazy(f"harness_tpap.attacks:{function}"),
            threats=("linf",),
            params={"steps": 100, "step": FROM_DATASET, "loss": LOSSES, **own},
            about={parameter: ABOUT[parameter] for parameter in ("steps", "step", "loss", *own)},
            only_against=("tpap", "tpap_iterated"),
            cost=cost,
            paper=paper,
            summary=summary,
        )


@hookimpl
def harness_analyses() -> Iterable[Analysis]:
    """Offer the analyses of overfitting and of purification."""
    yield Analysis(
        name="overfitting",
        run=lazy("harness_tpap.overfitting:overfitting"),
        only_of=("tpap", "fgsm_at"),
        paper=PAPER,
        summary="FGSM and PGD-20 accuracy of the bare network: whether it overfits to one step",
    )
    yield Analysis(
        name="overfitting_course",
        run=lazy("harness_tpap.overfitting_course:overfitting_course"),
        params={"every": 5},
        about={"every": "epochs between two looks at the network; it is looked at after the last one too"},
        only_of=("tpap", "tpap_iterated", "fgsm_at", "fast_at", "pgd_at", "raw"),
        groups=("figures",),
        paper=PAPER,
        summary="accuracy of train and test images by epoch, under each attack; the training is repeated",
    )
    yield Analysis(
        name="purification",
        run=lazy("harness_tpap.controls:purification"),
        only_of=("tpap",),
        paper=PAPER,
        summary="purification with other signs, labels and strengths; zero gradients; what it costs",
    )
