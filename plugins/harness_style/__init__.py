"""Feature matching to an image of another class: the style transfer of Simple Structure, free or in the linf ball."""

from collections.abc import Iterable

from harness.api import Attack, hookimpl, lazy

SGD = {"steps": 10, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
ABOUT = {
    "steps": "descent steps on the distance between features",
    "lr": "learning rate, on the [0, 1] pixel scale",
    "momentum": "factor on the previous step's velocity; 0 for no momentum",
    "weight_decay": "factor on the pixels themselves that is added to the gradient",
}
PAPER = "NST of Simple Structure, arXiv:2204.11596"


@hookimpl
def harness_attacks() -> Iterable[Attack]:
    """Offer the unbounded and the bounded attack."""
    yield Attack(
        name="nst_ss",
        run=lazy("harness_style.matching:nst_ss"),
        threats=("unbounded",),
        params=SGD,
        about=ABOUT,
        needs=("train_images", "features"),
        cost=20,
        groups=("unbounded", "paper:simple-structure"),
        paper=PAPER,
        summary="ten steps towards the shallow and deep features of an image of another class",
    )
    yield Attack(
        name="nst_b",
        run=lazy("harness_style.matching:nst_b"),
        threats=("linf",),
        params=SGD,
        about=ABOUT,
        needs=("train_images", "features"),
        cost=30,
        groups=("all", "linf"),
        paper=f"{PAPER}; the projection to the ball is ours",
        summary="nst_ss projected to the linf ball after each step",
    )
