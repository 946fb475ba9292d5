"""The classes that must not be used, each with what its test measures. None of them runs."""

from collections.abc import Iterable

from harness.api import Attack, OneOf
from harness_torchattacks.catalogue import L2_STEP, NOISE, described, stepwise

DIVERSITY = {"resize_rate": 0.9, "diversity_prob": 0.5, "random_start": False}
KERNELS = OneOf(("gaussian", "linear", "uniform"))
ELASTIC_NET = {
    "kappa": 0, "lr": 0.01, "binary_search_steps": 9, "max_iterations": 100, "abort_early": True,
    "initial_const": 0.001, "beta": 0.001,
}  # fmt: skip
ELASTIC_ABOUT = {
    "lr": "learning rate of the first iteration, which falls to zero",
    "max_iterations": "most iterations for each constant",
    "beta": "weight of the l1 distance, and threshold of the shrinkage",
}
PATCHES = {"num_iter_set": 10, "momentum": 1.0, "amplification": 10.0, "prob": 0.7}
FROZEN = (
    "one exactly zero gradient makes its momentum NaN for good: it breaks 0 of 16 images of a linear model whose first "
    "gradient is zero, BIM 16"
)
NEIGHBOURS = {"beta": "largest distance of a neighbour, as a multiple of eps"}
L2_ABOUT = {"step": "length of one step (l2), for pixels in [0, 1]"}
GREY = "its kernel has three channels: it raises a RuntimeError on grey images"


def defective() -> Iterable[Attack]:
    """Yield the classes with a measured defect."""
    for name, params, cost, paper, summary in (
        ("MIFGSM", {"decay": 1.0}, 20, "Dong et al. 2018, arXiv:1710.06081", "PGD with momentum"),
        ("NIFGSM", {"decay": 1.0}, 20, "Lin et al. 2020, arXiv:1908.06281", "PGD with Nesterov's momentum"),
        (
            "SINIFGSM", {"decay": 1.0, "m": 5}, 100, "Lin et al. 2020, arXiv:1908.06281",
            "NIFGSM with gradients averaged over darkened copies",
        ),
        (
            "VMIFGSM", {"decay": 1.0, "N": 5, "beta": 1.5}, 120, "Wang and He 2021, arXiv:2103.15571",
            "MIFGSM with gradients corrected by those of neighbours",
        ),
        (
            "VNIFGSM", {"decay": 1.0, "N": 5, "beta": 1.5}, 120, "Wang and He 2021, arXiv:2103.15571",
            "NIFGSM with gradients corrected by those of neighbours",
        ),
        (
            "UPGD", {"random_start": False, "loss": OneOf(("ce", "margin", "dlr")), "decay": 1.0, "eot_iter": 1}, 20,
            "", "PGD with momentum and a choice of losses",
        ),
        (
            "DIFGSM", {"decay": 0.0, **DIVERSITY}, 20, "Xie et al. 2019, arXiv:1803.06978",
            "PGD on randomly shrunk copies",
        ),
    ):  # fmt: skip
        yield stepwise(
            name, params, about=NEIGHBOURS, batch_coupled=True, cost=cost, paper=paper,
            summary=f"torchattacks' {name}: {summary}",
            defect=FROZEN,
        )  # fmt: skip
    yield stepwise(
        "TIFGSM",
        {"decay": 0.0, "kernel_name": KERNELS, "len_kernel": 15, "nsig": 3, **DIVERSITY},
        batch_coupled=True, cost=20,
        paper="Dong et al. 2019, arXiv:1904.02884",
        summary="torchattacks' TIFGSM: DIFGSM with blurred gradients",
        defect=GREY,
    )  # fmt: skip
    yield described(
        "PIFGSM", ("linf",), PATCHES, cost=20,
        paper="Gao et al. 2020, arXiv:2007.06765",
        summary="torchattacks' PIFGSM: large steps, with what is clipped handed to the neighbours",
        defect=GREY,
    )  # fmt: skip
    yield described(
        "PIFGSMPP", ("linf",), {**PATCHES, "project_factor": 0.8}, cost=20,
        paper="Gao et al. 2020, arXiv:2012.15503",
        summary="torchattacks' PIFGSMPP: PIFGSM with blurred gradients",
        defect=GREY,
    )  # fmt: skip
    yield stepwise(
        "TPGD", {}, batch_coupled=True, cost=20,
        paper="Zhang et al. 2019, arXiv:1901.08573",
        summary="torchattacks' TPGD: PGD on the divergence from the clean prediction",
        defect="a start of 0.001 decides on the direction, and so half go deeper into the class: it failed on 8 of "
        "16 images that a straight step breaks under linf",
    )  # fmt: skip
    yield described(
        "PGDL2", ("l2",), {"step": L2_STEP, "steps": 10, "random_start": True}, about=L2_ABOUT, batch_coupled=True,
        cost=20,
        paper="Madry et al. 2018, arXiv:1706.06083",
        summary="torchattacks' PGDL2: normed steps up the cross-entropy from a random start in the ball",
        defect="it adds 1e-10 to the norm of a gradient averaged over the batch: where the margin is 25, it breaks 70 "
        "of 100 images in one batch and 100 one by one",
    )  # fmt: skip
    yield described(
        "PGDRSL2", ("l2",),
        {"step": L2_STEP, "steps": 10, "noise_type": NOISE, "noise_sd": 0.5, "noise_batch_size": 5}, about=L2_ABOUT,
        batch_coupled=True, cost=100,
        paper="Salman et al. 2019, arXiv:1906.04584",
        summary="torchattacks' PGDRSL2: PGDL2 through averaged noise",
        defect="it adds 1e-10 to the norm of a gradient averaged over the batch: where the margin is 30, it breaks 0 "
        "of 100 images in one batch and 100 one by one",
    )  # fmt: skip
    yield described(
        "CW", ("l2",), {"c": 1, "kappa": 0, "steps": 50, "lr": 0.01},
        about={"steps": "steps of Adam", "lr": "learning rate of Adam, in tanh space"},
        minimal=True, batch_coupled=True, cost=100,
        paper="Carlini and Wagner 2017, arXiv:1608.04644",
        summary="torchattacks' CW: the smallest change that breaks, with a fixed weight",
        defect="it masks the true class with 0, and values of exactly 0 or 1 never move: with c=100 it breaks 16 of 16 "
        "images, and 0 once 100 is subtracted from all logits",
    )  # fmt: skip
    yield described(
        "DeepFool", ("l2",), {"steps": 50, "overshoot": 0.02},
        about={"steps": "most steps to the boundary of the linearised classifier"}, minimal=True, cost=550,
        paper="Moosavi-Dezfooli et al. 2016, arXiv:1511.04599",
        summary="torchattacks' DeepFool: linear steps to the nearest boundary",
        defect="it stalls inside the boundary where values are clipped: it breaks 0 of 16 images whose values are "
        "mostly 0, all of which a step of 0.21 breaks",
    )  # fmt: skip
    yield described(
        "SparseFool", ("l0",), {"steps": 10, "lam": 3, "overshoot": 0.02},
        about={"steps": "most rounds of DeepFool and a linear search along its normal"}, minimal=True, cost=1000,
        paper="Modas et al. 2019, arXiv:1811.02248",
        summary="torchattacks' SparseFool: few pixels along the normal that DeepFool finds",
        defect="it divides by the norm of a gradient: it returns NaN for 16 of 16 images of a model without a gradient",
    )  # fmt: skip
    yield described(
        "JSMA", ("l0",), {"theta": 1.0, "gamma": 0.1}, minimal=True, cost=1000,
        paper="Papernot et al. 2016, arXiv:1511.07528",
        summary="torchattacks' JSMA: pairs of pixels with the largest saliency",
        defect="its target is class (y + 1) % 10: it raises an IndexError where there are fewer than ten classes",
    )  # fmt: skip
    for name, bad, summary in (("EADL1", 15, "by the l1 norm"), ("EADEN", 16, "by the elastic net")):
        yield described(
            name, ("l1", "l2"), ELASTIC_NET, about=ELASTIC_ABOUT, minimal=True, batch_coupled=True, cost=3000,
            paper="Chen et al. 2018, arXiv:1709.04114",
            summary=f"torchattacks' {name}: the smallest change that breaks, {summary}",
            defect="its first step moves the very image it measures distances from: "
            f"{bad} of 16 black and white images come back outside [0, 1]",
        )  # fmt: skip
    yield described(
        "AutoAttack", ("linf", "l2"), {"version": OneOf(("standard", "plus", "rand"))}, batch_coupled=True,
        min_classes=4, cost=6000,
        paper="Croce and Hein 2020, arXiv:2003.01690",
        summary="torchattacks' AutoAttack: an ensemble that is not aa_standard",
        defect="it takes 10 steps of APGD, APGDT and FAB where AutoAttack takes 100: use aa_standard",
    )  # fmt: skip
