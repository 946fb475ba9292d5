"""Attacks as papers' scripts run them, defects included.

Their numbers carry a flag, and none is in a general suite.
"""

from collections.abc import Iterable
from fractions import Fraction

from harness.api import Attack, lazy

STEPS = "gradient steps"
STEP = "size of one step, on the [0, 1] pixel scale"


def attacks() -> Iterable[Attack]:
    """Yield the attacks of Simple Structure, ANCRA and TPAP."""
    yield Attack(
        name="fgsm_ss",
        run=lazy("harness_gradient.published:fgsm_ss"),
        threats=("unbounded",),
        params={"size": Fraction(5, 1000)},
        about={"size": "size of the step, on the [0, 1] pixel scale, before it is divided by the channel's deviation"},
        cost=2,
        as_published=True,
        groups=("paper:simple-structure",),
        paper="Tan et al. 2022, arXiv:2204.11596",
        summary="one step of 0.005 over each channel's deviation, about 0.025, and zero gradients count as positive",
    )
    yield Attack(
        name="bim_ss",
        run=lazy("harness_gradient.published:bim_ss"),
        revision=2,
        threats=("unbounded",),
        params={"size": Fraction(1, 1000), "steps": 5},
        about={
            "size": "size of the first step, on the [0, 1] pixel scale; later ones: over the channel's deviation",
            "steps": "gradient steps after the first one",
        },
        cost=12,
        as_published=True,
        groups=("paper:simple-structure",),
        paper="Tan et al. 2022, arXiv:2204.11596",
        summary="a step of 0.001, then five of 0.001 over each channel's deviation, in no ball: about 0.026 in all",
    )
    yield Attack(
        name="fgsm_rs",
        run=lazy("harness_gradient.published:fgsm_rs"),
        threats=("linf",),
        params={"step": Fraction(8, 255)},
        about={"step": STEP},
        cost=2,
        as_published=True,
        groups=("paper:ancra",),
        budgets={"paper:ancra": "linf:8/255"},
        paper="Zhou et al. 2023, arXiv:2310.03358, test script",
        summary="one step of PGD from a random start that is not clamped, called FGSM in the script",
    )
    yield Attack(
        name="cw_inf_20_batchsum",
        run=lazy("harness_gradient.published:cw_inf_batchsum"),
        threats=("linf",),
        params={"steps": 20, "step": Fraction(7, 1000)},
        about={"steps": STEPS, "step": STEP},
        batch_coupled=True,
        cost=40,
        as_published=True,
        groups=("paper:ancra",),
        budgets={"paper:ancra": "linf:8/255"},
        paper="Zhou et al. 2023, arXiv:2310.03358, test script",
        summary="PGD on a hinge of the batch's summed margins, which stops all gradients once the sum is negative",
    )
    yield Attack(
        name="mi_fgsm_tpap",
        run=lazy("harness_gradient.published:mi_fgsm_tpap"),
        threats=("linf",),
        params={"steps": 20, "step": Fraction(3, 1000), "decay": 1.0},
        about={"steps": STEPS, "step": STEP, "decay": "factor on the sum of earlier gradients at each step"},
        batch_coupled=True,
        cost=40,
        as_published=True,
        groups=("paper:tpap",),
        budgets={"paper:tpap": "linf:8/255"},
        paper="Tang and Zhang 2024, arXiv:2403.11448, attack script",
        summary="what TPAP prints as TI-DIM: MI-FGSM with gradients over the mean of the whole batch",
    )
