"""An outsider's plugin: one attack, one defense."""

from harness.api import Attack, Defense, hookimpl, lazy


@hookimpl
def harness_attacks():
    yield Attack(
        name="signs",
        run=lazy("acme_work:signs"),
        threats=("linf",),
        access="score",
        params={"tries": 20, "flips": 4},
        summary="random sign patterns, kept where they lower the margin",
    )


@hookimpl
def harness_defenses():
    yield Defense(
        name="noise_training",
        step=lazy("acme_work:noise_step"),
        params={"sigma": 0.2},
        summary="cross-entropy on images with Gaussian noise",
    )
