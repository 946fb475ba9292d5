"""A network that was built in memory: what it is called, and what identifies it besides its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

from harness.errors import UsageError
from harness.models.factory import Factory
from harness.models.fingerprint import fingerprint


def network_in_memory(network: nn.Module, name: str = "") -> Factory:
    """Stand for a network as a factory that returns copies of it; the network itself is never changed.

    Its identity is what decides its answers besides its weights, as far as that can be read (see `fingerprint`); a
    network that holds something unreadable has an identity of its own each time, so that no record of it is reused.
    """
    text = name or type(network).__name__

    def copied() -> nn.Module:
        try:
            return copy.deepcopy(network)
        except Exception as error:
            raise UsageError(
                f"the network cannot be copied ({type(error).__name__}: {str(error).splitlines()[0]}): give a function "
                "that returns it instead"
            ) from error

    return Factory(text=text, function=copied, source=None, content=fingerprint(network))


def factory_in_memory(function: Callable[..., Any], name: str = "") -> Factory:
    """Take a function, or a class of networks, as the factory; its source and what it closes over identify it."""
    own = getattr(function, "__qualname__", type(function).__name__).replace("<", "").replace(">", "")
    text = name or f"{getattr(function, '__module__', '') or 'given'}:{own}"
    return Factory(text=text, function=function, source=None, content=fingerprint(function))
