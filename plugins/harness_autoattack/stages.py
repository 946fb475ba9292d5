"""The stages: classes of `pyautoattack`, whose `perturb(x, y)` seeds torch and returns images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack

from harness.api import ThreatModel
from harness.ops import margin

if TYPE_CHECKING:
    pass

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
SILENT = logging.Logger("autoattack", level=logging.CRITICAL + 1)
"""Of its own, outside the tree of loggers: the classes tell it about zero gradients, which the harness flags itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Lengths of the stages. `restarts` (else 1) and `targets` (else 9) go by stage; `eot` averages gradients."""

    steps: int = 100
    queries: int = 5000
    eot: int = 1
    restarts: Mapping[str, int] = field(default_factory=dict)
    targets: Mapping[str, int] = field(default_factory=dict)


class MarginAPGD(APGDAttack):  # type: ignore[misc]  # pyautoattack has no types
    """APGD on the plain margin, which two logits define."""

    def dlr_loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Compute minus the margin (n,), which is increased."""
        return -margin(x, y)


class CrossEntropyAPGD(APGDAttack_targeted):  # type: ignore[misc]  # pyautoattack has no types
    """APGD that lowers the cross-entropy against each target class."""

    def dlr_loss_targeted(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Compute minus the target's cross-entropy (n,), which is increased."""
        values: torch.Tensor = self.ce_loss_targeted(x, y)
        return values


def build(
    name: str, predict: Callable[[torch.Tensor], torch.Tensor], threat: ThreatModel, seed: int, classes: int,
    settings: Settings,
) -> Any:  # fmt: skip
    """Set up one stage with the constants of the standard version; l1 searches within 3, 2 and 1 times the budget."""
    shared = {
        "norm": NORMS[threat.kind], "eps": threat.radius, "seed": seed, "verbose": False,
        "n_restarts": settings.restarts.get(name, 1),
    }  # fmt: skip
    search = {
        **shared, "n_iter": settings.steps, "eot_iter": settings.eot, "rho": 0.75,
        "use_largereps": threat.kind == "l1", "logger": SILENT,
    }  # fmt: skip
    targets = min(settings.targets.get(name, 9), classes - 1)
    make: dict[str, Callable[[], Any]] = {
        "apgd_ce": lambda: APGDAttack(predict, loss="ce", **search),
        "apgd_dlr": lambda: APGDAttack(predict, loss="dlr", **search),
        "apgd_margin": lambda: MarginAPGD(predict, loss="dlr", **search),
        "apgd_t": lambda: APGDAttack_targeted(predict, n_target_classes=targets, **search),
        "apgd_ce_t": lambda: CrossEntropyAPGD(predict, n_target_classes=targets, **search),
        "fab": lambda: FABAttack_PT(predict, n_iter=settings.steps, **shared),
        "fab_t": lambda: FABAttack_PT(
            predict, n_iter=settings.steps, targeted=True, n_target_classes=targets, **shared
        ),
        "square": lambda: SquareAttack(
            predict, n_queries=settings.queries, p_init=0.8, resc_schedule=False, **shared
        ),
    }  # fmt: skip
    return make[name]()
