"""Simple Structure: training on stored adversarial images, beside a detector that looks at a frozen clean network."""

from collections.abc import Iterable

from harness.api import Analysis, Defense, OneOf, StandIn, hookimpl, lazy
from harness_simple_structure import recipes

PAPER = "Tan et al. 2022, arXiv:2204.11596"
USED = ("raw", "gaussian", "fgsm_ss", "bim_ss", "deepfool", "cw_l2_adam100", "nst_ss")


@hookimpl
def harness_defenses() -> Iterable[Defense]:
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
    yield Analysis(
        name="detector",
        run=lazy("harness_simple_structure.analysis:detector"),
        params={"mixture": OneOf(("both", "uniform", "by_class")), "white_box": "pgd-40"},
        only_of=("simple_structure",),
        paper=PAPER,
        summary="how well the detector tells attacks from clean images, and what rejecting by it would leave",
    )
