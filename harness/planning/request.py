"""What a user asks for, before anything is looked up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a user asks for, as typed. `limit`: the first n test images, or a share of them below 1."""

    defenses: Sequence[str]
    attacks: Sequence[str] = ("all",)
    dataset: str = "digits"
    threats: Sequence[str] = ()
    arch: str = ""
    recipe: str = ""
    weights: str = ""
    limit: float | None = None
    seed: int = 0
    train_seed: int = 0
    analyses: Sequence[str] = ()
