"""Spatially transformed attacks: with a reward for smooth flows, and within a bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.api import Result, UsageError
from harness.ops import ascend, cross_entropy, logit_scale, margin, where_rows
from harness_spatial.minimize import adam, lbfgs
from harness_spatial.smoothness import smoothness
from harness_spatial.warp import pull_inside, warp

if TYPE_CHECKING:
    from harness.api import AttackContext, Flags, Images, Labels, Logits, Oracle, ThreatModel

ROUNDING = 1e-6
"""Margins within this share of the scale of the logits may have the other sign in another batch."""

NEAR = 0.01
"""Pixels: away from whole numbers, where bilinear sampling has kinks, and still next to the image."""


class Search:
    """The loss of flows, margin plus tau times roughness; keeps each example's adversarial flow of lowest loss."""

    def __init__(self, model: Oracle, x: Images, y: Labels, tau: float, kappa: float, neighbours: str) -> None:
        self.model, self.x, self.y = model, x, y
        self.tau, self.kappa, self.neighbours = tau, kappa, neighbours
        self.lowest = x.new_full((len(x),), float("inf"))
        self.images, self.flow = x.clone(), x.new_zeros(len(x), 2, *x.shape[2:])

    def __call__(
        self, points: torch.Tensor, which: torch.Tensor, penalized: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute losses (k,) and gradients (k, d) of flattened flows for the examples `which`.

        `penalized=False`: of the margin alone. Adversarial flows of lower loss are kept either way.
        """
        flow = points.view(-1, *self.flow.shape[1:]).requires_grad_(True)
        images = warp(self.x[which], flow)
        logits, y = self.model(images), self.y[which]
        short = margin(logits, y).clamp_min(-self.kappa)
        whole = short + self.tau * smoothness(flow, self.neighbours)
        loss = whole if penalized else short
        (gradient,) = torch.autograd.grad(loss.sum(), flow)
        loss, whole, flow = loss.detach(), whole.detach(), flow.detach()
        better = broken(logits.detach(), y) & (whole < self.lowest[which])
        found = which[better]
        self.lowest[found], self.flow[found] = whole[better], flow[better]
        self.images[found] = images.detach()[better]
        return loss, gradient.flatten(1)


def sta(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, tau: float, kappa: float,
    neighbours: str, optimizer: str, steps: int, history: int, adam_steps: int, adam_rate: float, rough_steps: int,
) -> Result:  # fmt: skip
    """Search for the smoothest adversarial flow (Xiao et al. 2018, arXiv:1801.02612), without a bound.

    Nothing is drawn; `ctx` is not used.

    Around a flow of zero the reward for smoothness has nearly a kink, at which L-BFGS can stay without an adversarial
    image, SciPy's too. Such examples are searched again from where `rough_steps` steps without the reward lead.
    """
    _at_least_one(steps=steps, history=history, adam_steps=adam_steps)
    search = Search(model, x, y, tau, kappa, neighbours)

    def minimize(which: torch.Tensor, start: torch.Tensor) -> None:
        def objective(points: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return search(points, which[rows])

        if optimizer == "lbfgs":
            lbfgs(objective, start, steps, history)
        else:
            adam(objective, start, adam_steps, adam_rate)

    zero = search.flow.flatten(1).clone()
    minimize(torch.arange(len(x), device=x.device), zero)
    left = search.lowest.isinf().nonzero().squeeze(1)
    if rough_steps and len(left):
        rough = lbfgs(lambda points, rows: search(points, left[rows], False), zero[left], rough_steps, history)
        minimize(left, pull_inside(rough.view(len(left), *search.flow.shape[1:])).flatten(1))
    details = {
        "flow_max": search.flow.abs().flatten(1).amax(dim=1),
        "flow_loss": smoothness(search.flow, neighbours),
    }
    return Result(last=search.images, any=search.images, evidence=search.flow, details=details)


def sta_b(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, start: str
) -> Result:
    """Increase the cross-entropy over flows that move no pixel by more than eps, in pixels.

    `last` is the final iterate, which is not evaluated here, `any` the first adversarial one. The evidence is the flow.
    """
    _at_least_one(steps=steps)
    rho = _not_above(threat.radius)
    first, first_flow = x, x.new_zeros(len(x), 2, *x.shape[2:])
    done = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def loss(flow: torch.Tensor) -> torch.Tensor:
        nonlocal first, first_flow, done
        point = warp(x, flow)
        logits = model(point)
        with torch.no_grad():
            new = broken(logits, y) & ~done
            first, first_flow, done = where_rows(new, point, first), where_rows(new, flow, first_flow), done | new
        return cross_entropy(logits, y)

    begin = first_flow
    if start != "none":
        width = rho if start == "uniform" else min(NEAR, rho)
        # Noise comes in the shape of the images, which may have a single channel: two draws.
        begin = width * torch.cat([ctx.noise(purpose)[:, :1] for purpose in ("start:0", "draw:0")], dim=1)
    flow = ascend(loss, begin, 2.5 * rho / steps, lambda flow: flow.clamp(-rho, rho), steps)
    return Result(last=warp(x, flow), any=first, evidence=flow, any_evidence=first_flow)


def broken(logits: Logits, y: Labels) -> Flags:
    """Tell whether each example (n,) is misclassified by more than rounding."""
    return margin(logits, y) < -ROUNDING * logit_scale(logits)


def _not_above(bound: float) -> float:
    """The largest float32 that is not above the bound."""
    nearest = torch.tensor(bound, dtype=torch.float32)
    return float(nearest if float(nearest) <= bound else torch.nextafter(nearest, torch.zeros(())))


def _at_least_one(**lengths: int) -> None:
    for name, length in lengths.items():
        if length < 1:
            raise UsageError(f"{name}={length} must be at least 1")
