"""Adaptive adversarial logits pairing (AALP) in both arXiv versions, its ablations, and Guided Dropout alone.

The sizes and losses of its consistent and inconsistent sets are an analysis of every defense.
"""

from collections.abc import Iterable

from harness.api import Analysis, Defense, OneOf, Value, hookimpl, lazy
from harness_aalp.figures import FIGURES, PAPER

MANDATORY = ("pgd-100[restarts=10]", "cw_inf-100[restarts=10]", "aa_standard", "square")

DROPOUT: dict[str, Value | OneOf] = {
    "gd_per": OneOf(("batch", "sample")),
    "gd_ties": OneOf(("rank", "half")),
    "gd_scale": 1.0,
    "gd_of": OneOf(("loss", "logit")),
}
"""The parameters of Guided Dropout."""
DROPOUT_ABOUT = {
    "gd_per": "what has a mask of its own: the batch, or each sample",
    "gd_ties": "how ties at the median are broken: keep exactly half, by rank, or keep them at half the weight",
    "gd_scale": "factor on the features that are kept",
    "gd_of": "what features contribute to: the loss, or the logit of the true class",
}

PARAMETERS: dict[str, Value | OneOf] = {
    "version": OneOf((2, 1)),
    "alpha": 1.0,
    "beta": 0.6,
    "gd": True,
    "sw": True,
    "reduction": OneOf(("mean", "sum")),
    "classification": OneOf(("mean", "sum")),
    "gd_rows": OneOf(("both", "clean", "adv")),
    **DROPOUT,
}
ABOUT = {
    "version": "arXiv version of the paper; 1 adds Matching ALP to sample weighting",
    "alpha": "weight of logit pairing",
    "beta": "weight of Matching ALP, which version 1 with `sw` has",
    "gd": "whether the features that contribute least are dropped (Guided Dropout)",
    "sw": "whether each pair is weighted by its clean confidence in the true class (sample weighting)",
    "reduction": "how the squared differences of a pair's logits are put together",
    "classification": "mean cross-entropy over clean and adversarial images, or the sum of their two means",
    "gd_rows": "images whose contributions rank the features: clean and adversarial ones, or one kind alone",
    **DROPOUT_ABOUT,
}


@hookimpl
def harness_defenses() -> Iterable[Defense]:
    """Offer AALP, its two ablations, and Guided Dropout on clean and on PGD training."""
    for name, parts, summary in (
        ("aalp", {}, "logit pairing weighted by confidence, with Guided Dropout"),
        ("aalp_gd", {"sw": False}, "ablation: logit pairing with Guided Dropout, unweighted"),
        ("aalp_sw", {"gd": False}, "ablation: logit pairing weighted by confidence, no Guided Dropout"),
    ):
        yield Defense(
            name=name,
            step=lazy("harness_aalp.step:step"),
            params=PARAMETERS | parts,
            about=ABOUT,
            mandatory=MANDATORY,
            paper=PAPER,
            summary=summary,
        )
    for name, summary in (
        ("raw_gd", "cross-entropy on clean images, with Guided Dropout"),
        ("pgd_at_gd", "cross-entropy on PGD examples, with Guided Dropout"),
    ):
        yield Defense(
            name=name,
            step=lazy(f"harness_aalp.single:{name}"),
            params=DROPOUT,
            about=DROPOUT_ABOUT,
            mandatory=MANDATORY,
            paper=f"{PAPER}, v1 table 5",
            summary=summary,
        )


@hookimpl
def harness_analyses() -> Iterable[Analysis]:
    """Offer the analysis of consistent and inconsistent sets, and those behind the papers' figures."""
    yield Analysis(
        name="confidence_sets",
        run=lazy("harness_aalp.confidence_sets:confidence_sets"),
        params={"attack": "pgd-10"},
        about={"attack": "attack under which a consistent image stays right, under the dataset's budget"},
        paper=f"{PAPER}, v1 tables 1 and 6, v2 tables 1 and 4",
        summary="test images that stay right under an attack, and those that do not: sizes, confidences, losses",
    )
    yield from FIGURES
