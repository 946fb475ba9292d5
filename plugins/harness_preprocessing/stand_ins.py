"""The stand-in that all operations share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def base(network: nn.Module, **params: Any) -> nn.Module:
    """Return the network without preprocessing."""
    return network
