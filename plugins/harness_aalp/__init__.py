"""Adaptive adversarial logits pairing (AALP), both arXiv versions, its ablations, and Guided Dropout alone.

Its consistent and inconsistent sets are an analysis of every defense."""

from collections.abc import Iterable

from harness.api import Analysis, Defense, OneOf, hookimpl, lazy

PAPER = "Wu et al. 2020, arXiv:2005.11904"
MANDATORY = ("pgd-100[restarts=10]", "cw_inf-100[restarts=10]", "aa_standard", "square")

DROPOUT = {
    "gd_per": OneOf(("batch", "sample")),
    "gd_ties": OneOf(("rank", "half")),
    "gd_scale": 1.0,
    "gd_of": OneOf(("loss", "logit")),
}
"""Guided Dropout. `gd_per`: one mask for a batch or for each sample. `gd_ties`: keep exactly half by rank, or half the
weight at the median. `gd_of`: the gradient of the loss or of the true logit."""

PARAMETERS = {
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
"""version 1 adds Matching ALP (weight `beta`) to sample weighting. `gd`: Guided Dropout; `sw`: sample weighting.
`reduction`: mean or sum over the logits of a pair. `classification`: mean over clean and adversarial rows, or the sum
of their two means. `gd_rows`: whose contribution counts (both, clean, adv)."""


@hookimpl
def harness_defenses() -> Iterable[Defense]:
    for name, parts, summary in (
        ("aalp", {}, "logit pairing weighted by confidence, with Guided Dropout"),
        ("aalp_gd", {"sw": False}, "ablation: logit pairing with Guided Dropout, unweighted"),
        ("aalp_sw", {"gd": False}, "ablation: logit pairing weighted by confidence, no Guided Dropout"),
    ):
        yield Defense(
            name=name,
            step=lazy("harness_aalp.step:step"),
            params=PARAMETERS | parts,
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
            mandatory=MANDATORY,
            paper=f"{PAPER}, v1 table 5",
            summary=summary,
        )


@hookimpl
def harness_analyses() -> Iterable[Analysis]:
    yield Analysis(
        name="confidence_sets",
        run=lazy("harness_aalp.confidence_sets:confidence_sets"),
        params={"attack": "pgd-10"},
        paper=f"{PAPER}, v1 tables 1 and 6, v2 tables 1 and 4",
        summary="test images that stay right under an attack, and those that do not: sizes, confidences, losses",
    )
