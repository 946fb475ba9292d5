"""The defenses others are compared with: no defense, PGD adversarial training, adversarial logit pairing."""

from collections.abc import Iterable

from harness.api import Defense, OneOf, hookimpl, lazy


@hookimpl
def harness_defenses() -> Iterable[Defense]:
    yield Defense(
        name="raw", step=lazy("harness_baselines.steps:raw"), summary="no defense: cross-entropy on clean images"
    )
    yield Defense(
        name="pgd_at",
        step=lazy("harness_baselines.steps:pgd_at"),
        params={"mix": 0.0, "attack_mode": OneOf(("eval", "train"))},
        paper="Madry et al. 2018, arXiv:1706.06083",
        summary="cross-entropy on PGD examples; mix = share of the clean loss",
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
        step=lazy("harness_baselines.steps:trades"),
        params={"beta": 6.0, "inner": OneOf(("kl", "ce", "fgsm")), "start": OneOf(("normal", "uniform"))},
        paper="Zhang et al. 2019, arXiv:1901.08573",
        summary="clean cross-entropy, and clean and adversarial predictions pulled together by divergence",
    )
