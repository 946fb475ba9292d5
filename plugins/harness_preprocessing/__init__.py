"""Input preprocessing as a defense: JPEG, bit depth, total variation, random resizing and padding."""

from collections.abc import Iterable

from harness.api import Defense, OneOf, StandIn, hookimpl, lazy

GUO = "Guo et al. 2018, arXiv:1711.00117"
XIE = "Xie et al. 2018, arXiv:1711.01991"
BASES = OneOf(("raw", "pgd_at"))
BASE = "defense whose network the images are preprocessed for; the network is trained on images as they are"
STATIC = StandIn(
    name="base", build=lazy("harness_preprocessing.stand_ins:base"), knowledge="static", every=True,
    summary="the network without preprocessing: an attacker who does not know of it",
)  # fmt: skip
CUBIC = ("pgd-100@cubic", "cw_inf-100@cubic")
IDENTITY = ("pgd-100@identity", "cw_inf-100@identity")
DRAWN = ("pgd_eot-40", "aa_rand")


@hookimpl
def harness_defenses() -> Iterable[Defense]:
    """Offer each operation around a network that is trained as usual, with its stand-ins."""
    yield Defense(
        name="jpeg",
        step=lazy("harness_preprocessing.training:step"),
        wrap=lazy("harness_preprocessing.jpeg:wrap"),
        params={"base": BASES, "quality": 75},
        about={"base": BASE, "quality": "quality of the compression, from 1 to 100, as libjpeg counts it"},
        deployment=("quality",),
        uses=BASES.values,  # type: ignore[arg-type]
        stand_ins=(
            STATIC,
            StandIn(
                name="cubic", build=lazy("harness_preprocessing.jpeg:cubic"),
                summary="r + (v - r)^3 for a value v that is rounded to r, differentiated (Shin and Song 2017)",
            ),
        ),
        adaptive=CUBIC,
        gated=True,
        mandatory=("aa_standard", "square", *CUBIC),
        paper=f"{GUO}; Das et al. 2017, arXiv:1705.02900",
        summary="compresses each image as JPEG and decodes it again; roundings are differentiated as the identity",
    )  # fmt: skip
    yield Defense(
        name="bit_depth",
        step=lazy("harness_preprocessing.training:step"),
        wrap=lazy("harness_preprocessing.bits:wrap"),
        params={"base": BASES, "bits": 3},
        about={"base": BASE, "bits": "bits that are kept of each value, from 1 to 8"},
        deployment=("bits",),
        uses=BASES.values,  # type: ignore[arg-type]
        stand_ins=(
            STATIC,
            StandIn(
                name="cubic", build=lazy("harness_preprocessing.bits:cubic"),
                summary="r + (v - r)^3 for a value v that is rounded to r, differentiated",
            ),
        ),
        adaptive=CUBIC,
        gated=True,
        mandatory=("aa_standard", "square", *CUBIC),
        paper=f"Xu et al. 2018, arXiv:1704.01155; {GUO}",
        summary="rounds each value to few bits; the rounding is differentiated as the identity",
    )  # fmt: skip
    yield Defense(
        name="total_variation",
        step=lazy("harness_preprocessing.training:step"),
        wrap=lazy("harness_preprocessing.variation:wrap"),
        params={"base": BASES, "weight": 0.1, "iterations": 50},
        about={
            "base": BASE,
            "weight": "weight of the total variation against half the squared distance to the image",
            "iterations": "steps of the minimiser, the same for every image",
        },
        deployment=("weight", "iterations"),
        uses=BASES.values,  # type: ignore[arg-type]
        stand_ins=(
            STATIC,
            StandIn(
                name="identity", build=lazy("harness_preprocessing.variation:identity"),
                summary="the gradient at the smoothed image, handed to the image (BPDA)",
            ),
        ),
        adaptive=IDENTITY,
        gated=True,
        mandatory=("aa_standard", "square", *IDENTITY),
        paper=f"Rudin et al. 1992; {GUO}, which also drops pixels at random",
        summary="replaces each image by a smooth one of little total variation; the minimiser is differentiated",
    )  # fmt: skip
    yield Defense(
        name="resize_pad",
        step=lazy("harness_preprocessing.training:step"),
        wrap=lazy("harness_preprocessing.resize:wrap"),
        params={"base": BASES, "smallest": 0.75},
        about={"base": BASE, "smallest": "smallest size that is drawn, as a share of the image's sides"},
        deployment=("smallest",),
        uses=BASES.values,  # type: ignore[arg-type]
        stand_ins=(STATIC,),
        adaptive=DRAWN,
        mandatory=("square", *DRAWN),
        stochastic=True,
        paper=f"{XIE}, which enlarges; here images shrink, so that any network takes them",
        summary="shrinks each image to a random size and pads it with black to its old size, at a random place",
    )
