"""Describes the analyses behind the papers' figures: suite `figures`, which boards ask for by name.

They are no part of `all`: two of them train the network again, and boards that were measured before lack the others.
"""

from harness.api import Analysis, OneOf, lazy

PAPER = "Wu et al. 2020, arXiv:2005.11904"
SUITE = ("figures",)
ATTACKED = "attack on the bare network, under the dataset's budget"
OF = "what features contribute to: the loss, or the logit of the true class"

FIGURES = (
    Analysis(
        name="feature_contribution",
        run=lazy("harness_aalp.feature_contribution:feature_contribution"),
        params={"attack": "pgd-10", "of": OneOf(("loss", "logit"))},
        about={"attack": ATTACKED, "of": OF},
        groups=SUITE,
        paper=f"{PAPER}, v1 figures 2 and 7, v2 figures 1 and 7",
        summary="fewest penultimate features that give 10 % to 90 % of all contribution to the loss",
    ),
    Analysis(
        name="contribution_course",
        run=lazy("harness_aalp.contribution_course:contribution_course"),
        params={"every": 10000, "attack": "pgd-10", "of": OneOf(("loss", "logit"))},
        about={
            "every": "batches between two looks at the network; it is looked at after the last one too",
            "attack": ATTACKED,
            "of": OF,
        },
        groups=SUITE,
        paper=f"{PAPER}, figures 9 and 10",
        summary="contributions and Grad-CAM areas in the course of training, which is repeated",
    ),
    Analysis(
        name="pairing_course",
        run=lazy("harness_aalp.pairing_course:pairing_course"),
        params={"every": 1, "attack": "pgd-10"},
        about={
            "every": "epochs between two looks at the network; it is looked at after the last one too",
            "attack": ATTACKED,
        },
        groups=SUITE,
        paper=f"{PAPER}, figures 4 and 12",
        summary="ALP loss of both sets, test loss and accuracies by epoch of training, which is repeated",
    ),
    Analysis(
        name="confidence_scatter",
        run=lazy("harness_aalp.confidence_scatter:confidence_scatter"),
        params={"attack": "pgd-10", "points": 0},
        about={
            "attack": "attack on what is deployed, under the dataset's budget",
            "points": "how many images are told one by one",
        },
        groups=SUITE,
        paper=f"{PAPER}, figure 11",
        summary="confidence in the true class, clean against attacked: distance from the diagonal, quantiles",
    ),
    Analysis(
        name="grad_cam_area",
        run=lazy("harness_aalp.grad_cam_area:grad_cam_area"),
        params={"attack": "pgd-10", "variant": OneOf(("aalp", "standard")), "sign": OneOf((-1, 1)), "level": 0.5},
        about={
            "attack": ATTACKED,
            "variant": "gradient of the loss times map (aalp), or pooled gradient of the logit (standard)",
            "sign": "of the gradient of the loss, for aalp: -1 is evidence for the class, 1 as printed",
            "level": "where strongly related begins, between the least of a map and its most",
        },
        groups=SUITE,
        paper=f"{PAPER}, v1 figures 1 and 8, v2 figures 2 and 8",
        summary="share of the image that Grad-CAM marks, clean and attacked",
    ),
)
