"""Attacks without gradients: spsa reads scores, rays reads decisions. Square is with AutoAttack."""

from collections.abc import Iterable

from harness.api import Attack, hookimpl, lazy


@hookimpl
def harness_attacks() -> Iterable[Attack]:
    """Offer SPSA and RayS."""
    yield Attack(
        name="spsa",
        run=lazy("harness_blackbox.spsa:spsa"),
        threats=("linf",),
        access="score",
        params={"steps": 100, "samples": 128, "lr": 0.01, "delta": 0.01, "chunk": 4096},
        about={
            "steps": "steps of Adam on the margin",
            "samples": "random directions for each gradient estimate, two queries each",
            "lr": "learning rate of Adam, on the [0, 1] pixel scale",
            "delta": "distance of both queries of a direction from the point, on the [0, 1] pixel scale",
            "chunk": "most images in one forward pass; a limit on memory",
        },
        cost=25_600,
        trial={"steps": 4, "samples": 24},
        groups=("blackbox", "linf"),
        paper="Uesato et al. 2018, arXiv:1802.05666",
        summary="down the margin by gradients estimated from scores along random directions",
    )
    yield Attack(
        name="rays",
        run=lazy("harness_blackbox.rays:rays"),
        threats=("linf",),
        access="decision",
        params={"queries": 10_000, "tolerance": 1e-3},
        about={
            "queries": "most decisions asked for each image",
            "tolerance": "width at which a bisection ends: Euclidean length, for pixels in [0, 1]",
        },
        cost=10_000,
        trial={"queries": 200},
        groups=("all[queries=2000]", "blackbox", "linf"),
        paper="Chen and Gu 2020, arXiv:2006.12792",
        summary="search for the sign vector along which the nearest boundary lies, from decisions only",
    )
