"""Baseline defenses: none, adversarial training by PGD or in one step, logit pairing, TRADES and MART."""

from collections.abc import Iterable

from harness.api import Defense, OneOf, hookimpl, lazy
from harness_baselines import recipes

STATISTICS = "images that update batch norm: adversarial ones alone, or clean ones before them, as in TPAP's code"
STARTS = OneOf(("normal", "uniform"))
ABOUT = {
    "beta": "weight of the divergence between clean and adversarial predictions",
    "inner": "inner attack: up the divergence (kl), up cross-entropy (ce), or up cross-entropy in one step (fgsm)",
    "start": "start of the kl and ce attacks: the image plus 0.001 N(0, 1), or drawn uniformly from the ball",
}
"""What the parameters of TRADES do; MART shares them."""
MART_ABOUT = {
    **ABOUT,
    "variant": "rows whose divergence counts: all, or those that the mask of TPAP's code keeps",
    "inner": "inner attack: up cross-entropy in the recipe's steps (ce), or in one step (fgsm)",
    "start": "start of the ce attack: the image plus 0.001 N(0, 1), or drawn uniformly from the ball",
}


@hookimpl
def harness_defenses() -> Iterable[Defense]:
    """Offer the baselines."""
    yield Defense(
        name="raw",
        step=lazy("harness_baselines.steps:raw"),
        more_recipes=recipes.RAW,
        summary="no defense: cross-entropy on clean images",
    )
    yield Defense(
        name="pgd_at",
        step=lazy("harness_baselines.steps:pgd_at"),
        params={
            "mix": 0.0,
            "attack_mode": OneOf(("eval", "train")),
            "statistics": OneOf(("adv", "both"), later=True),
        },
        about={
            "mix": "share of the clean cross-entropy in the loss, from 0 (none) to 1",
            "attack_mode": "mode that the network is attacked in: of evaluation or of training",
            "statistics": STATISTICS,
        },
        more_recipes=recipes.PGD_AT,
        paper="Madry et al. 2018, arXiv:1706.06083",
        summary="cross-entropy on PGD examples; mix = share of the clean loss",
    )
    yield Defense(
        name="fgsm_at",
        step=lazy("harness_baselines.steps:fgsm_at"),
        params={"statistics": OneOf(("adv", "both"))},
        about={"statistics": STATISTICS},
        recipes=recipes.FGSM_AT,
        mandatory=("pgd-20", "aa_standard"),
        paper="Goodfellow et al. 2015, arXiv:1412.6572; settings of TPAP",
        summary="cross-entropy on examples of one full step: the base of TPAP, meant to overfit catastrophically",
    )
    yield Defense(
        name="fast_at",
        step=lazy("harness_baselines.steps:fast_at"),
        params={"alpha": 1.25},
        about={"alpha": "size of the one step, as a multiple of eps"},
        recipes=recipes.FAST_AT,
        mandatory=("pgd-20", "aa_standard"),
        paper="Wong et al. 2020, arXiv:2001.03994",
        summary="cross-entropy on examples of one step of alpha eps from a uniform start, meant not to overfit",
    )
    yield Defense(
        name="alp",
        step=lazy("harness_baselines.steps:alp"),
        params={"weight": 1.0, "ce": OneOf(("both", "clean", "adv"))},
        about={"weight": "weight of logit pairing", "ce": "images whose cross-entropy counts"},
        mandatory=("pgd-100[restarts=10]", "cw_inf-100[restarts=10]", "aa_standard", "square"),
        paper="Kannan et al. 2018, arXiv:1803.06373",
        summary="adversarial training that pairs clean and adversarial logits; ce = both, clean or adv",
    )
    yield Defense(
        name="trades",
        step=lazy("harness_baselines.divergence:trades"),
        params={
            "beta": 6.0, "inner": OneOf(("kl", "ce", "fgsm")), "start": STARTS,
            "clean_passes": OneOf((2, 1), later=True),
        },
        about=ABOUT | {"clean_passes": "passes of clean images, each of which updates batch norm; TPAP's code has 1"},
        recipes=recipes.TRADES,
        more_recipes=recipes.MORE_TRADES,
        paper="Zhang et al. 2019, arXiv:1901.08573",
        summary="clean cross-entropy, and clean and adversarial predictions pulled together by divergence",
    )  # fmt: skip
    yield Defense(
        name="mart",
        step=lazy("harness_baselines.divergence:mart"),
        params={
            "beta": 5.0, "variant": OneOf(("reference", "tpap")), "inner": OneOf(("ce", "fgsm")), "start": STARTS,
        },
        about=MART_ABOUT,
        recipes=recipes.MART,
        more_recipes=recipes.MORE_MART,
        mandatory=("cw_inf-100", "aa_standard"),
        paper="Wang et al. 2020, ICLR",
        summary="adversarial training that weighs the divergence by how wrong the clean prediction is",
    )  # fmt: skip
