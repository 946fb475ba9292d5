"""Attacks called as the harness calls them, but judged by nobody."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from harness.evaluation.call import run_attack
from harness.evaluation.context import AttackContext, Supplies
from harness.evaluation.oracle import Oracle
from harness.registry.names import default_value
from harness.types import FROM_DATASET, Attack, Result, ThreatModel
from support.measure import SHA


class NotedContext(AttackContext):
    """Gives the noise that a test prepared, where it did, and notes what was asked for: purpose -> noise."""

    given: Mapping[str, torch.Tensor] | None = None

    def noise(self, purpose, *distribution):
        drawn = super().noise(purpose, *distribution) if self.given is None else self.given[purpose]
        self.asked = {**getattr(self, "asked", {}), purpose: drawn}
        return drawn


def context_on(
    model: nn.Module, x: torch.Tensor, *, access="gradient", seed=0, sha256=SHA, examples=None, noise=None, wanted=(),
    deadline=None, **supplies: object,
) -> tuple[Oracle, NotedContext]:  # fmt: skip
    """The oracle of a model and what an attack on it is handed as `ctx`. `supplies`: fields of `Supplies`."""
    oracle = Oracle(model, access, deadline)
    ctx = NotedContext(
        oracle, x, seed=seed, data_sha256=sha256, examples=range(len(x)) if examples is None else examples,
        steps_wanted=wanted, supplies=Supplies(**supplies),
    )  # fmt: skip
    ctx.given = noise
    return oracle, ctx


@dataclass(frozen=True)
class Crafted:
    """What an attack returned, after which questions. `asked`: the noise it drew, by purpose."""

    result: Result
    oracle: Oracle
    ctx: NotedContext

    @property
    def last(self) -> torch.Tensor:
        return self.result.last

    @property
    def any(self) -> torch.Tensor | None:
        return self.result.any

    @property
    def asked(self) -> Mapping[str, torch.Tensor]:
        return getattr(self.ctx, "asked", {})


def crafted(
    attack: Attack, model: nn.Module, x, y, threat: ThreatModel, params: Mapping[str, object], **given: object
) -> Crafted:
    """Call an attack the way the harness does; it must not print. `given`: see `context_on`."""
    oracle, ctx = context_on(model, x, **{"access": attack.access, **given})
    returned, printed = run_attack(attack, oracle, x, y, threat, ctx, params)
    assert printed == ""
    return Crafted(returned if isinstance(returned, Result) else Result(last=returned), oracle, ctx)


def resolved(attack: Attack, params: Mapping[str, object], step: object = FROM_DATASET) -> dict[str, object]:
    """All its parameters: those given, the others by default, and `step` where the dataset's is asked for."""
    defaults = {name: default_value(value) for name, value in attack.params.items()}
    assert params.keys() <= defaults.keys()
    return {name: step if value == FROM_DATASET else value for name, value in {**defaults, **params}.items()}


# Models and images that several attacks are tried on.


class Times(nn.Module):
    """A model with its logits multiplied and shifted."""

    def __init__(self, model: nn.Module, factor: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.model, self.factor, self.shift = model, factor, shift

    def forward(self, x):
        return self.factor * self.model(x) + self.shift


class Masked(nn.Module):
    """A model with one more class, which does not exist: its logit is a constant."""

    def __init__(self, model: nn.Module, value: float = -1e9) -> None:
        super().__init__()
        self.model, self.value = model, value

    def forward(self, x):
        logits = self.model(x)
        return torch.cat([logits, torch.full_like(logits[:, :1], self.value)], dim=1)


def conv_net(shape: Sequence[int] = (1, 8, 8), classes: int = 5, seed: int = 0, width: int = 8) -> nn.Module:
    """Two convolutions of random weights for images (c, h, w); frozen, in eval mode."""
    channels, height, columns = shape
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, width, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(width * ((height + 1) // 2) * ((columns + 1) // 2), classes),
        )  # fmt: skip
    return layers.eval().requires_grad_(False)


def images_at_the_border(
    n: int, shape: Sequence[int] = (1, 8, 8), seed: int = 1, beyond: float = 0.2, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Images (n, c, h, w) with many pixels at 0 and 1: drawn from as far as `beyond` the range, and clamped."""
    drawn = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return ((1 + 2 * beyond) * drawn - beyond).clamp(0, 1)


def labels_of(model: nn.Module, x: torch.Tensor, wrong_every: int | None = 8) -> torch.Tensor:
    """The model's own answers, but for one in so many."""
    logits = model(x)
    y = logits.argmax(dim=1)
    if wrong_every is not None:
        y[::wrong_every] = (y[::wrong_every] + 1) % logits.shape[1]
    return y


@torch.no_grad()
def misclassified(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Which images a model gets wrong, (n,)."""
    return model(x).argmax(dim=1) != y


def unit_noise(seed: int, x: torch.Tensor) -> torch.Tensor:
    """Noise on [-1, 1] in the shape of the images."""
    return 2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) - 1


def mnist_images(read, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first test images of MNIST and their labels, from the fixture `mnist_raw`."""
    pixels, labels = read("t10k")
    return torch.from_numpy(pixels[:n].copy()).float().unsqueeze(1) / 255, torch.from_numpy(labels[:n].copy()).long()
