"""Feature matching to an image of another class: the style transfer of Simple Structure, free and in the linf ball."""

from collections.abc import Iterable

from harness.api import Attack, hookimpl, lazy

SGD = {"steps": 10, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
PAPER = "NST of Simple Structure, arXiv:2204.11596"


@hookimpl
def harness_attacks() -> Iterable[Attack]:
    yield Attack(
        name="nst_ss",
        run=lazy("harness_style.matching:nst_ss"),
        threats=("unbounded",),
        params=SGD,
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
        needs=("train_images", "features"),
        cost=30,
        groups=("all", "linf"),
        paper=f"{PAPER}; the projection to the ball is ours",
        summary="nst_ss projected to the linf ball after each step",
    )
