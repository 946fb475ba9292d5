"""Asymmetric negative contrast and reverse attention (ANCRA), and stand-ins for attackers who know the defense."""

from collections.abc import Iterable

from harness.api import Analysis, Defense, OneOf, StandIn, Value, hookimpl, lazy
from harness_ancra.recipes import RECIPES

PAPER = "Zhou et al. 2023, arXiv:2310.03358"
PARAMETERS: dict[str, Value | OneOf] = {
    "variant": OneOf(("trades", "pgd", "mart", "pgd_plain", "mart_plain")),
    "beta": 6.0,
    "mart_beta": 5.0,
    "auxiliary": 2.0,
    "zeta": 3.0,
    "alpha": 1.0,
}
ABOUT = {
    "variant": "training that negative contrast is added to; the authors publish TRADES only, and pgd and mart change "
    "one term of it, so that clean images still train the masks; plain: without the cross-entropy on clean images, "
    "which PGD training and MART do not have",
    "beta": "for trades: weight of the divergence",
    "mart_beta": "for mart and mart_plain: weight of the divergence",
    "auxiliary": "weight of the auxiliary logits in every term and in the inner attacks",
    "zeta": "weight of the negative contrast",
    "alpha": "share of the negative contrast whose gradient goes to the negatives alone, from 0 to 1",
}

STAND_INS = {
    "soft_mask": "the mask of every class, weighted by the softmax of the auxiliary logits",
    "auxiliary": "the mean of the auxiliary logits, which choose the mask",
    "joint": "final plus mean auxiliary logits, with the soft mask",
}


@hookimpl
def harness_defenses() -> Iterable[Defense]:
    """Offer ANCRA with its stand-ins."""
    yield Defense(
        name="ancra",
        step=lazy("harness_ancra.step:step"),
        extend=lazy("harness_ancra.reverse_attention:extend"),
        params=PARAMETERS,
        about=ABOUT,
        recipes=RECIPES,
        stand_ins=tuple(
            StandIn(name=name, build=lazy(f"harness_ancra.stand_ins:{name}"), summary=summary)
            for name, summary in STAND_INS.items()
        ),
        adaptive=("cw_inf-100@soft_mask", "pgd-100@joint", "pgd-100@auxiliary", "apgd_t@soft_mask", "apgd_t@auxiliary"),
        gated=True,
        mandatory=("aa_standard", "square", "apgd_t@auxiliary"),
        paper=PAPER,
        summary="TRADES, PGD training or MART with negative contrast, last features masked by the weights of a class",
    )


@hookimpl
def harness_analyses() -> Iterable[Analysis]:
    """Offer the distances of features; in no board's `all`, which were measured without it."""
    yield Analysis(
        name="feature_distances",
        run=lazy("harness_ancra.distances:feature_distances"),
        params={"attack": "pgd-10", "steps": 10, "step": 0.25},
        about={
            "attack": "attack on the bare network for alignment, under the dataset's budget",
            "steps": "steps of the targeted attack for exclusion",
            "step": "size of each of them, as a part of the dataset's linf budget",
        },
        groups=("figures",),
        paper=PAPER,
        summary="alignment and exclusion: how far features are from their attacked ones, and from other classes",
    )
