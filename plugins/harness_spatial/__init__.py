"""Attacks that move pixels instead of changing their values, and the threat kind that bounds the moves."""

from collections.abc import Iterable
from fractions import Fraction

from harness.api import Attack, OneOf, ThreatKind, hookimpl, lazy

STADV = "Xiao et al. 2018, arXiv:1801.02612"


@hookimpl
def harness_threat_models() -> Iterable[ThreatKind]:
    """Offer the threat kind `flow`."""
    yield ThreatKind(
        name="flow",
        distance=lazy("harness_spatial.threat:distance"),
        verify=lazy("harness_spatial.threat:verify"),
        trial=Fraction(1, 2),
        summary="largest move of a pixel, vertical or horizontal, in pixels; evidence: the flow (n, 2, h, w)",
    )


@hookimpl
def harness_attacks() -> Iterable[Attack]:
    """Offer the spatial attacks."""
    yield Attack(
        name="sta",
        run=lazy("harness_spatial.attacks:sta"),
        threats=("unbounded",),
        params={
            "tau": 0.05,
            "kappa": 0.0,
            "neighbours": OneOf(("axis", "diagonal")),
            "optimizer": OneOf(("lbfgs", "adam")),
            "steps": 100,
            "history": 10,
            "adam_steps": 200,
            "adam_rate": 0.02,
            "rough_steps": 30,
        },
        about={
            "tau": "weight of the flow's roughness against the margin",
            "kappa": "lead of another class, in logits, beyond which the margin adds nothing to the loss",
            "neighbours": "pairs of pixels whose moves are compared: along the axes, or along the diagonals",
            "optimizer": "minimiser of the loss",
            "steps": "for lbfgs: most accepted steps of one search",
            "history": "for lbfgs: earlier steps that the curvature is estimated from",
            "adam_steps": "for adam: steps of one search",
            "adam_rate": "for adam: learning rate, in pixels of flow",
            "rough_steps": "steps without the smoothness term from which failures are searched again; 0 for none",
        },
        verdicts_only=True,
        cost=400,
        trial={"steps": 15, "rough_steps": 10},
        groups=("all", "spatial", "unbounded"),
        paper=STADV,
        summary="moves pixels smoothly until the label changes; no limit, smoothness is only rewarded",
    )
    yield Attack(
        name="sta_b",
        run=lazy("harness_spatial.attacks:sta_b"),
        threats=("flow",),
        params={"steps": 40, "start": OneOf(("uniform", "near", "none"))},
        about={
            "steps": "gradient steps of 2.5 eps / steps, in pixels of flow",
            "start": "first flow: drawn uniformly within the bound, or within 0.01 pixels (near), or zero (none)",
        },
        cost=80,
        groups=("all", "spatial"),
        paper=f"{STADV}, with the bound of Laidlaw et al. 2021, arXiv:2006.12655",
        summary="moves every pixel by at most eps pixels, up the cross-entropy",
    )
    yield Attack(
        name="sta_tpap",
        run=lazy("harness_spatial.published:sta_tpap"),
        threats=("unbounded",),
        params={"steps": 10, "searches": 5, "smoothing": 1.0},
        about={
            "steps": "most L-BFGS-B iterations of each search",
            "searches": "fresh starts of L-BFGS-B, each from where the one before ended",
            "smoothing": "weight of the flow's variation against the margin",
        },
        batch_coupled=True,
        as_published=True,
        cost=150,
        trial={"steps": 5, "searches": 2},
        groups=("paper:tpap", "unbounded"),
        paper=f"{STADV}, as advertorch 0.2.3 has it and TPAP (Tang and Zhang 2024) uses it",
        summary="spatial attack of advertorch: one search for the whole batch, black images where it fails",
    )
