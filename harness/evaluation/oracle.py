"""The model as an attack sees it: counted, limited to the declared access, and checked for tampering."""

from __future__ import annotations

import copy
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from harness.errors import HarnessError, OutOfTime
from harness.networks import settle, tensors_sha256

if TYPE_CHECKING:
    from harness.types import Access, Images, Logits


class NoGradient(HarnessError):
    """An attack asked for a gradient, and the answers of the model carry none."""


class AccessDenied(HarnessError):
    """Raised where an attack asks the model for more than it declared."""


@dataclass(slots=True)
class Count:
    """The passes that an attack asked for so far, in images."""

    forwards: int = 0
    backwards: int = 0


class Oracle(nn.Module):
    """A model that counts: every image that goes forward, and every image that a gradient comes back to.

    `gradient` access answers logits with a graph, and the weights are readable; `score` answers logits without one;
    `decision` answers one-hot rows. The parameters take no gradient. The network is a copy that no verdict uses. The
    counts hold for attacks that play by the rules: one that copies the network can ask the copy uncounted. After
    `deadline` (on the monotonic clock) it answers nothing more and raises `OutOfTime`. `count` is shared by the oracles
    of one attack.
    """

    def __init__(
        self, model: nn.Module, access: Access, deadline: float | None = None, count: Count | None = None
    ) -> None:
        super().__init__()
        self.access = access
        self.deadline = deadline
        self.count = count or Count()
        self.gradient_free = False
        working = settle(copy.deepcopy(model))
        if isinstance(working, torch.jit.ScriptModule):  # takes no hook
            working = _Around(working)
        working.register_forward_pre_hook(self._count_forward)
        if access == "gradient":
            self.model = working
        else:
            # Held outside the module tree: an attack without gradient access finds no parameters here.
            object.__setattr__(self, "_hidden", working)
        self.training = False

    @property
    def forwards(self) -> int:
        """The number of images that went forward."""
        return self.count.forwards

    @property
    def backwards(self) -> int:
        """The number of images that a gradient came back to."""
        return self.count.backwards

    @property
    def network(self) -> nn.Module:
        """The attack's copy of the network."""
        found: nn.Module = self.model if self.access == "gradient" else self.__dict__["_hidden"]
        return found

    def forward(self, x: Images) -> Logits:
        """Answer images (n, c, h, w) as far as the access allows: with logits (n, k), or one-hot rows for `decision`.

        Raises:
            AccessDenied: where a gradient is asked for without gradient access.
            OutOfTime: once the deadline has passed.
        """
        if self.access == "gradient":
            logits: Logits = self.network(x)
            asked = x.requires_grad and torch.is_grad_enabled()
            self.gradient_free = asked and isinstance(logits, torch.Tensor) and not logits.requires_grad
            return logits
        if x.requires_grad:
            raise AccessDenied(f"an attack with {self.access} access asked for a gradient")
        with torch.no_grad():
            logits = self.network(x)
        if self.access == "score":
            return logits
        return nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits.dtype)

    def _count_forward(self, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTime
        # A copy of its own for each pass: models that write to their input spare the attack's, and the hook, at the
        # input so that features count as logits do, goes with the pass.
        x, *rest = (inputs[0].clone(), *inputs[1:])
        self.count.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self._count_backward)
        return (x, *rest)

    def _count_backward(self, gradient: torch.Tensor | None) -> None:
        # Quantised layers carry a graph, and hand nothing back through it.
        self.count.backwards += len(gradient) if gradient is not None else 0

    def fingerprint(self) -> dict[str, str]:
        """Digest what must be equal before and after an attack (see the function `fingerprint`)."""
        return fingerprint(self.network)


class _Around(nn.Module):
    """A module around another that does the same."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Images) -> Logits:
        logits: Logits = self.network(x)
        return logits


def fingerprint(model: nn.Module) -> dict[str, str]:
    """Digest the parts of a model that an attack could change: weights, modes, gradient flags, hooks and structure."""
    modules = list(model.named_modules())
    # A scripted module keeps its forward among its own attributes once it was called.
    hooks = [
        (name, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), "forward" in vars(m))
        for name, m in modules
        if not isinstance(m, torch.jit.ScriptModule)
    ]
    forwards = [(name, type(m).__qualname__, id(getattr(type(m), "forward", None))) for name, m in modules]
    parts = {
        "weights": tensors_sha256(model.state_dict()),
        "train mode": repr([name for name, module in modules if module.training]),
        "gradient flags": repr([(n, p.requires_grad, p.grad is None) for n, p in model.named_parameters()]),
        "hooks": repr(hooks),
        "structure": repr(forwards),
    }
    return {part: hashlib.sha256(text.encode()).hexdigest() for part, text in parts.items()}
