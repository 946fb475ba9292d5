"""Simple Structure: training on stored adversarial images, beside a detector that sees a frozen clean network."""

from collections.abc import Iterable

from harness.api import Analysis, Defense, OneOf, StandIn, hookimpl, lazy
from harness_simple_structure import recipes

PAPER = "Tan et al. 2022, arXiv:2204.11596"
USED = ("raw", "gaussian", "fgsm_ss", "bim_ss", "deepfool", "cw_l2_adam100", "nst_ss")


@hookimpl
def harness_defenses() -> Iterable[Defense]:
    """Offer the defense, with its clean network as a stand-in."""
    yield Defense(
        name="simple_structure",
        step=lazy("harness_simple_structure.step:step"),
        extend=lazy("harness_simple_structure.structure:extend"),
        wrap=lazy("harness_simple_structure.structure:deploy"),
        params={
            "ratio": 0.5,
            "ratio_range": None,
            "sets": "all",
            "storage": OneOf(("lossless", "jpeg75")),
            "input": OneOf(("full", "low")),
            "layers": OneOf((2, 4, 8)),
            "a": 1.0,
            "b": 1.0,
            "match": OneOf(("detector", "random", "features")),
        },
        about={
            "ratio": "chance that a training image is replaced by an attacked one, from 0 to 1",
            "ratio_range": "range, as in 0.3:0.7, that the ratio is drawn from in each epoch; none for a fixed one",
            "sets": "stored attacks to train on: all, the same six as the published script crafts them (published), or "
            "names joined by +",
            "storage": "how attacked images are kept: rounded to 8 bits, or compressed as JPEG of quality 75",
            "input": "feature maps that the detector sees: of all stages (full), or of the first one (low)",
            "layers": "layers of the detector's transformer",
            "a": "weight of the classification loss",
            "b": "weight of the distance to the clean network's feature; 0 for none",
            "match": "feature to match: of the trained detector, of an untrained one (random), or the penultimate one",
        },
        recipes=recipes.RECIPES,
        uses=USED,
        stand_ins=(
            StandIn(
                name="clean",
                build=lazy("harness_simple_structure.structure:clean"),
                knowledge="transfer",
                every=True,
                summary="the frozen clean network that the paper crafts all its attacks on",
            ),
        ),
        mandatory=("aa_standard", "square"),
        paper=PAPER,
        summary="trained on stored attacks on a clean network, and pulled to its features as a detector sees them",
    )


@hookimpl
def harness_analyses() -> Iterable[Analysis]:
    """Offer the analysis of its detector."""
    yield Analysis(
        name="detector",
        run=lazy("harness_simple_structure.analysis:detector"),
        params={"mixture": OneOf(("both", "uniform", "by_class", "both_networks")), "white_box": "pgd-40"},
        about={
            "mixture": "which images of a mixture are attacked: an equal share of each class, those of the last "
            "classes (by_class, as published), one mixture of each kind (both), or those and what the clean network "
            "answers on them, as the paper's tables need it (both_networks)",
            "white_box": "attack on the deployed network that is measured besides those of the sets",
        },
        only_of=("simple_structure",),
        paper=PAPER,
        summary="how well the detector tells attacks from clean images, and what rejecting by it would leave",
    )
