"""The classes that pass every contract. Those whose draws are shaped like the batch couple its images."""

from collections.abc import Iterable
from fractions import Fraction

from harness.api import Attack, OneOf
from harness_torchattacks.catalogue import NOISE, described, stepwise

AUTOATTACK = "Croce and Hein 2020, arXiv:2003.01690"


def offered() -> Iterable[Attack]:
    """Yield the classes that can be used."""
    yield described(
        "GN", ("unbounded",), {"std": 0.1}, access="decision", batch_coupled=True, cost=0,
        summary="torchattacks' GN: Gaussian noise, without a look at the model",
    )  # fmt: skip
    yield described(
        "FGSM", ("linf",), {}, cost=2,
        paper="Goodfellow et al. 2015, arXiv:1412.6572",
        summary="torchattacks' FGSM: one step along the sign of the gradient",
    )  # fmt: skip
    yield stepwise(
        "BIM", {}, cost=20,
        paper="Kurakin et al. 2017, arXiv:1607.02533",
        summary="torchattacks' BIM: iterated FGSM from the image itself",
    )  # fmt: skip
    yield stepwise(
        "RFGSM", {}, batch_coupled=True, cost=20,
        paper="Tramer et al. 2018, arXiv:1705.07204",
        summary="torchattacks' RFGSM: iterated FGSM after one step in a random direction",
    )  # fmt: skip
    yield stepwise(
        "PGD", {"random_start": True}, batch_coupled=True, cost=20,
        paper="Madry et al. 2018, arXiv:1706.06083",
        summary="torchattacks' PGD: steps up the cross-entropy from a random start in the ball",
    )  # fmt: skip
    yield stepwise(
        "EOTPGD", {"eot_iter": 2, "random_start": True}, batch_coupled=True, cost=40,
        paper="Zimmermann 2019, arXiv:1907.00895",
        summary="torchattacks' EOTPGD: PGD with gradients averaged over passes of a random model",
    )  # fmt: skip
    yield described(
        "FFGSM", ("linf",), {"step": Fraction(10, 255)}, batch_coupled=True, cost=2,
        trial={"step": Fraction(1, 8)},
        paper="Wong, Rice and Kolter 2020, arXiv:2001.03994",
        summary="torchattacks' FFGSM: one step from a random start in the ball",
    )  # fmt: skip
    yield stepwise(
        "PGDRS", {"noise_type": NOISE, "noise_sd": 0.5, "noise_batch_size": 5}, batch_coupled=True, cost=100,
        paper="Salman et al. 2019, arXiv:1906.04584",
        summary="torchattacks' PGDRS: PGD through averaged noise, for models smoothed with that noise",
    )  # fmt: skip
    yield stepwise(
        "Jitter", {"scale": 10.0, "std": 0.1, "random_start": True},
        about={"std": "standard deviation of the noise on the softmax; 0 for none"}, batch_coupled=True, cost=20,
        # Two opposite logits divided by the larger one are constant: there is no gradient.
        min_classes=3,
        paper="Schwinn et al. 2021, arXiv:2105.10304",
        summary="torchattacks' Jitter: PGD on scaled outputs with noise, for three classes and more",
    )  # fmt: skip
    yield described(
        "APGD", ("linf", "l2"),
        {"steps": 10, "n_restarts": 1, "loss": OneOf(("ce", "dlr")), "eot_iter": 1, "rho": 0.75},
        about={"loss": "what is increased: cross-entropy (ce), or the difference of logits ratio (dlr)"},
        batch_coupled=True, cost=22, paper=AUTOATTACK,
        summary="torchattacks' APGD: steps that halve where they do not help; 10 of them, AutoAttack takes 100",
    )  # fmt: skip
    yield described(
        # Not under l2: there it takes the step size of the batch's first image for all.
        "APGDT", ("linf",), {"steps": 10, "n_restarts": 1, "eot_iter": 1, "rho": 0.75},
        batch_coupled=True, min_classes=4, cost=200, paper=AUTOATTACK,
        summary="torchattacks' APGDT: APGD towards every other class; 10 steps, AutoAttack takes 100",
    )  # fmt: skip
    yield described(
        # Not under l1: there it raises an UnboundLocalError.
        "FAB", ("linf", "l2"),
        {"steps": 10, "n_restarts": 1, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9, "multi_targeted": False},
        about={"beta": "share of its distance from the clean image that a success keeps, a step back"},
        batch_coupled=True, cost=130,
        paper="Croce and Hein 2020, arXiv:1907.02044",
        summary="torchattacks' FAB: steps to the nearest boundary, kept where inside the budget; AutoAttack takes 100",
    )  # fmt: skip
    yield described(
        "Square", ("linf", "l2"),
        {"n_queries": 5000, "n_restarts": 1, "p_init": 0.8, "loss": OneOf(("margin", "ce")), "resc_schedule": True},
        about={"loss": "what is lowered or increased on scores: the margin, or cross-entropy (ce)"},
        access="score", batch_coupled=True, cost=5000, trial={"n_queries": 100},
        paper="Andriushchenko et al. 2020, arXiv:1912.00049",
        summary="torchattacks' Square: random squares on scores; its schedule is rescaled, AutoAttack's is not",
    )  # fmt: skip
    yield described(
        "SPSA", ("linf",), {"delta": 0.01, "lr": 0.01, "nb_iter": 1, "nb_sample": 128, "max_batch_size": 64},
        access="score", batch_coupled=True, cost=256, trial={"nb_iter": 10, "nb_sample": 32, "max_batch_size": 32},
        paper="Uesato et al. 2018, arXiv:1802.05666",
        summary="torchattacks' SPSA: gradients guessed from scores in random directions; a single step by default",
    )  # fmt: skip
    yield described(
        "OnePixel", ("l0",), {"steps": 10, "popsize": 10},
        about={"steps": "most generations of differential evolution"},
        access="score", batch_coupled=True, cost=110,
        trial={"steps": 1},
        paper="Su, Vargas and Sakurai 2019, arXiv:1710.08864",
        summary="torchattacks' OnePixel: differential evolution of as many pixels as the budget has values for",
    )  # fmt: skip
    yield described(
        "Pixle", ("unbounded",), {"restarts": 20, "max_iterations": 10}, access="score", batch_coupled=True,
        cost=400,
        paper="Pomponi, Scardapane and Uncini 2022, arXiv:2202.02236",
        summary="torchattacks' Pixle: copies random patches to random pixels",
    )  # fmt: skip
