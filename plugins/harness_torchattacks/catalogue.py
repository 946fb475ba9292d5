"""Describes the classes of torchattacks 3.5.1, with their own parameters and defaults.

A run knows the budget, the norm, the number of classes and the seed; `alpha` is called `step`, as everywhere here.
"""

from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from types import MappingProxyType
from typing import Any

from harness.api import Attack, OneOf, lazy

EXCLUDED = {
    "VANILA": "returns the images unchanged: `clean` does",
    "MultiAttack": "a wrapper that runs other attacks one after the other, on every one of which there is a row here",
    "LGV": "a wrapper that first trains forty copies of the model, with a loader of training images",
}
"""Classes without a row."""

KEPT = {
    "verbose": "False: nothing is printed",
    "batch_max": "2048: a limit on memory",
    "inf_batch": "128: a limit on memory",
    "eps_for_division": "1e-10",
    "x_dimensions": "(2, 10)",
    "y_dimensions": "(2, 10)",
    "pixel_mapping": "random: the others write rows into columns",
    "update_each_iteration": "False: the other way takes one image only",
}
"""Parameters that keep torchattacks' default: no number or text, of no effect on a result, or broken."""

LINF_STEP = Fraction(2, 255)
L2_STEP = Fraction(1, 5)
TRIAL_STEP = Fraction(1, 20)
"""For contract tests, whose budgets are not those that torchattacks' default steps are made for."""
NOISE = OneOf(("guassian", "uniform"))
"""Spelled as torchattacks spells it."""


STEP = "size of one step, on the [0, 1] pixel scale"
ABOUT = {
    "step": STEP,
    "steps": "gradient steps",
    "random_start": "whether the first point is drawn from the ball instead of the image itself",
    "eot_iter": "gradients averaged at each step",
    "n_restarts": "runs; those after the first attack the images that still stand",
    "restarts": "rounds, each from the best image so far",
    "decay": "factor on the sum of earlier gradients at each step; 0 for no momentum",
    "noise_type": "distribution of the noise that the prediction is averaged over",
    "noise_sd": "standard deviation of normal noise, or half the width of uniform noise, on the [0, 1] pixel scale",
    "noise_batch_size": "noisy copies that the prediction is averaged over",
    "std": "standard deviation of the noise, on the [0, 1] pixel scale",
    "scale": "factor on logits over their largest magnitude, before the softmax",
    "loss": "what is increased: cross-entropy (ce), minus the margin, or the difference of logits ratio (dlr)",
    "rho": "share of recent steps that must increase the loss, or the step size is halved",
    "alpha_max": "largest weight of the step back towards the clean image",
    "eta": "factor on each step to the boundary; above 1 it overshoots",
    "multi_targeted": "whether each other class is the target in turn",
    "n_queries": "queries for each image and run",
    "p_init": "share of the image that the first squares cover",
    "resc_schedule": "whether the schedule of square sizes is stretched to n_queries; made for 10,000",
    "delta": "distance of both queries of a direction from the point, on the [0, 1] pixel scale",
    "lr": "learning rate of Adam",
    "nb_iter": "steps of Adam",
    "nb_sample": "random directions for each gradient estimate",
    "max_batch_size": "most directions in one forward pass",
    "popsize": "about how many candidates each generation has",
    "max_iterations": "patches tried in each round",
    "m": "copies that gradients are averaged over, each half as bright as the one before",
    "N": "random neighbours that the gradient is corrected by",
    "resize_rate": "smallest size of a resized copy, over the size of the image",
    "diversity_prob": "chance that the images of a step are resized and padded",
    "kernel_name": "shape of the kernel that smooths gradients",
    "len_kernel": "side of the kernel that smooths gradients, in pixels",
    "nsig": "standard deviations from the centre of the Gaussian kernel to its border",
    "num_iter_set": "gradient steps",
    "momentum": "without effect: torchattacks stores it and never reads it",
    "amplification": "factor on the step size of eps / num_iter_set",
    "prob": "without effect: torchattacks stores it and never reads it",
    "project_factor": "weight of what is handed to neighbouring pixels, over the size of a step",
    "kappa": "lead of another class, in logits, that is asked for",
    "c": "weight of the margin against the squared distance",
    "overshoot": "share by which each perturbation is stretched beyond the boundary",
    "lam": "factor on the perturbation of DeepFool, whose boundary is then followed",
    "theta": "change of each chosen value, on the [0, 1] pixel scale",
    "gamma": "largest share of values that may change",
    "binary_search_steps": "values of the constant that are tried",
    "initial_const": "first weight of the margin against the distances",
    "abort_early": "whether a search ends once its loss stops falling",
    "version": "stages that run",
}
"""What a parameter does, unless the row of a class says otherwise."""


def described(
    name: str, threats: tuple[str, ...], params: Mapping[str, Any], *, min_classes: int = 2,
    about: Mapping[str, str] = MappingProxyType({}), **fields: Any,
) -> Attack:  # fmt: skip
    """Describe a class. `about`: where its parameters do something else than those of other classes."""
    return Attack(
        name=f"torchattacks/{name.lower()}",
        run=partial(lazy("harness_torchattacks.adapter:run"), name, min_classes),
        threats=threats,
        params=params,
        about={parameter: {**ABOUT, **about}[parameter] for parameter in params},
        min_classes=min_classes,
        **fields,
    )


def stepwise(name: str, params: Mapping[str, Any], **fields: Any) -> Attack:
    """Describe a class that takes `steps` of size `step` in the linf ball."""
    trial = {"step": TRIAL_STEP, **fields.pop("trial", {})}
    return described(name, ("linf",), {"step": LINF_STEP, "steps": 10, **params}, trial=trial, **fields)
