"""The predictions before and after purification, and a gradient ascent on both."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from harness.api import NotApplicable
from harness.ops import cross_entropy, margin, misclassified, project_linf
from harness_tpap.iterated import Iterated, offset
from harness_tpap.purify import Purified, drawn, labelled

if TYPE_CHECKING:
    from harness.api import AttackContext, Images, Labels, Logits, Oracle


class Surface:
    """The deployed network as an attacker who knows it sees it; every pass is counted.

    Raises:
        NotApplicable: where the model under attack purifies nothing.
    """

    def __init__(self, model: Oracle, ctx: AttackContext) -> None:
        self.base, deployed = ctx.stand_in("base"), model.network
        if not isinstance(deployed, Purified | Iterated):
            raise NotApplicable("the model under attack is no purified network")
        self.deployed = deployed

    def look(
        self, point: Images, y: Labels, loss: str, held: Labels | None = None, both: bool = False
    ) -> tuple[Logits, Logits, torch.Tensor | None, torch.Tensor]:
        """Compute the logits (n, k) before and after purification, and the gradients with respect to both images.

        The first gradient is that of the margin of the label that is held, or of minus the margin of `y` where `both`
        count, else None; the second that of the final loss, which BPDA hands to the image. With a label `held` the
        pattern is made for it, whatever is predicted.
        """
        point = point.detach().requires_grad_(True)
        before = self.base(point)
        change = self.change(point, before, held, keep=both or held is not None)
        earlier = None
        if held is not None:
            (earlier,) = torch.autograd.grad(margin(before, held).sum(), point)
        elif both:
            (earlier,) = torch.autograd.grad(-margin(before, y).sum(), point)
        moved = (point.detach() + change).clamp(0.0, 1.0).requires_grad_(True)
        after = self.base(moved)
        value = cross_entropy(after, y) if loss == "ce" else -margin(after, y)
        (later,) = torch.autograd.grad(value.sum(), moved)
        return before.detach(), after.detach(), earlier, later

    def change(self, point: Images, before: Logits, held: Labels | None, keep: bool) -> torch.Tensor:
        """Compute what purification adds (n, c, h, w), before the clamp; `keep` retains the graph of `before`."""
        predicted, deployed = before.argmax(dim=1) if held is None else held, self.deployed
        if isinstance(deployed, Iterated):
            return offset(self.base, point.detach(), predicted, deployed.strength, deployed.steps)
        if deployed.pattern == "random_sign":
            return deployed.strength * drawn(point)
        labels = labelled(predicted, deployed.pattern, before.shape[1])
        (gradient,) = torch.autograd.grad(cross_entropy(before, labels).sum(), point, retain_graph=keep)
        signs = -gradient.sign() if deployed.pattern == "reversed" else gradient.sign()
        return deployed.strength * signs


def ascent(
    surface: Surface, x: Images, y: Labels, eps: float, start: Images, steps: int, step: float, *, loss: str,
    held: Labels | None = None, both: bool = False,
) -> Images:  # fmt: skip
    """Increase the final loss by sign steps from `start`; returns the ends, an example stopping where it succeeds.

    `held`: labels (n,) that the prediction before purification is brought to and kept at; success needs it.
    `both`: it is to be wrong before purification, too; success is to be wrong after it.
    """
    ends, left = start.clone(), torch.arange(len(x), device=x.device)
    for done in range(steps + 1):
        own, kept = y[left], None if held is None else held[left]
        before, after, earlier, later = surface.look(ends[left], own, loss, kept, both)
        stands = ~misclassified(after, own)
        if kept is not None:
            away = before.argmax(dim=1) != kept
            stands |= away
            later = torch.where(_wide(away), cast("torch.Tensor", earlier), later)
        elif both:
            later = _unit(cast("torch.Tensor", earlier)) * _wide(margin(before, own) >= 0) + _unit(later)
        left = left[stands]
        if done == steps or not len(left):
            break
        ends[left] = project_linf(x[left], eps)(ends[left] + step * later[stands].sign())
    return ends


def _unit(gradient: torch.Tensor) -> torch.Tensor:
    """Each example's gradient over its mean size, so that neither of two drowns the other; zero stays zero."""
    return gradient / _wide(gradient.abs().flatten(1).mean(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny))


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1)
