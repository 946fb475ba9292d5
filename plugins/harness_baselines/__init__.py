"""The defenses others are compared with: none, adversarial training by PGD or one step, logit pairing, TRADES, MART."""

from collections.abc import Iterable

from harness.api import Defense, OneOf, hookimpl, lazy
from harness_baselines import recipes

STARTS = OneOf(("normal", "uniform"))


@hookimpl
def harness_defenses() -> Iterable[Defense]:
    yield Defense(
        name="raw", step=lazy("harness_baselines.steps:raw"), summary="no defense: cross-entropy on clean images"
    )
    yield Defense(
        name="pgd_at",
        step=lazy("harness_baselines.steps:pgd_at"),
        params={"mix": 0.0, "attack_mode": OneOf(("eval", "train"))},
        recipes=recipes.PGD_AT,
        paper="Madry et al. 2018, arXiv:1706.06083",
        summary="cross-entropy on PGD examples; mix = share of the clean loss",
    )
    yield Defense(
        name="fgsm_at",
        step=lazy("harness_baselines.steps:fgsm_at"),
        params={"statistics": OneOf(("adv", "both"))},
        recipes=recipes.FGSM_AT,
        mandatory=("pgd-20", "aa_standard"),
        paper="Goodfellow et al. 2015, arXiv:1412.6572; settings of TPAP",
        summary="cross-entropy on examples of one full step: the base of TPAP, meant to overfit catastrophically",
    )
    yield Defense(
        name="fast_at",
        step=lazy("harness_baselines.steps:fast_at"),
        params={"alpha": 1.25},
        recipes=recipes.FAST_AT,
        mandatory=("pgd-20", "aa_standard"),
        paper="Wong et al. 2020, arXiv:2001.03994",
        summary="cross-entropy on examples of one step of alpha eps from a uniform start, meant not to overfit",
    )
    yield Defense(
        name="alp",
        step=lazy("harness_baselines.steps:alp"),
        params={"weight": 1.0, "ce": OneOf(("both", "clean", "adv"))},
        mandatory=("pgd-100[restarts=10]", "cw_inf-100[restarts=10]", "aa_standard", "square"),
        paper="Kannan et al. 2018, arXiv:1803.06373",
        summary="adversarial training that pairs clean and adversarial logits; ce = both, clean or adv",
    )
    yield Defense(
        name="trades",
        step=lazy("harness_baselines.divergence:trades"),
        params={"beta": 6.0, "inner": OneOf(("kl", "ce", "fgsm")), "start": STARTS},
        recipes=recipes.TRADES,
        paper="Zhang et al. 2019, arXiv:1901.08573",
        summary="clean cross-entropy, and clean and adversarial predictions pulled together by divergence",
    )
    yield Defense(
        name="mart",
        step=lazy("harness_baselines.divergence:mart"),
        params={
            "beta": 5.0, "variant": OneOf(("reference", "tpap")), "inner": OneOf(("ce", "fgsm")), "start": STARTS,
        },
        recipes=recipes.MART,
        mandatory=("cw_inf-100", "aa_standard"),
        paper="Wang et al. 2020, ICLR",
        summary="adversarial training that weighs the divergence by how wrong the clean prediction is",
    )  # fmt: skip
