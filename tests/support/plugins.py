"""A tiny world for tests: a dataset, a network, defenses and attacks that train and run in a blink."""

from fractions import Fraction

import torch

from harness.api import (
    Analysis,
    Architecture,
    Attack,
    Dataset,
    Defense,
    InnerAttack,
    Recipe,
    Result,
    ThreatKind,
    hookimpl,
)
from harness.conformance import toys
from harness.registry import norms
from harness.registry.discovery import load
from harness.registry.registry import Loaded, Provider, Registry

RECIPE = Recipe(name="toy", arch="tiny", epochs=3, batch=32, lr=5e-3, inner=InnerAttack(steps=2))
SIZES = {"train": (160, 3), "validation": (32, 4), "test": (600, 5)}


def load_toy(part, *, root, location):
    n, seed = SIZES[part]
    return toys.toy_part(n=n, seed=seed).split


def plain_step(model, x, y, ctx):
    return torch.nn.functional.cross_entropy(model(x), y)


def robust_step(model, x, y, ctx, *, mix=1.0):
    return torch.nn.functional.cross_entropy(model(ctx.perturb(model, x, y)), y)


def broken_step(model, x, y, ctx):
    raise RuntimeError("this defense cannot be trained")


def unchanged(model, x, y, threat):
    return x


def one_step(model, x, y, threat):
    eps = float(threat.eps)
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), y, reduction="sum"), x)
    return (x.detach() + eps * gradient.sign()).clamp(0, 1)


def every_second(model, x, y, threat):
    """`one_step` for every second image of the batch."""
    moved = one_step(model, x.clone(), y, threat)
    return torch.where((torch.arange(len(x)) % 2 == 0).view(-1, 1, 1, 1), moved, x)


def random_signs(model, x, y, threat):
    """Draws from the global generator, as third-party attacks do."""
    return (x + float(threat.eps) * torch.randn_like(x).sign()).clamp(0, 1)


# Attacks that cheat or fail. Each is caught by name in test_evaluate.py.


def black(model, x, y, threat):
    return torch.zeros_like(x)


def out_of_ball(model, x, y, threat):
    return (x + 2 * float(threat.eps)).clamp(0, 1)


def out_of_range(model, x, y, threat):
    return torch.full_like(x, 1.0000001)


def not_a_number(model, x, y, threat):
    return torch.full_like(x, float("nan"))


def wrong_shape(model, x, y, threat):
    return x[:, :, :-1]


def wrong_type(model, x, y, threat):
    return (x * 255).to(torch.uint8)


def modifies_weights(model, x, y, threat):
    for parameter in model.parameters():
        parameter.data += 0.5
    return x


def flips_train_mode(model, x, y, threat):
    model.train()
    return x


def patches_forward(model, x, y, threat):
    inner = model.model
    inner.head.register_forward_hook(lambda module, inputs, output: output.flip(1))
    return x


def hidden_patch(model, x, y, threat):
    inner = model.model
    original = inner.features
    object.__setattr__(inner, "features", lambda images: -original(images))
    return x


def claims_success(model, x, y, threat):
    return Result(last=x, any=(x + 1e-3).clamp(0, 1))


def returns_a_tuple(model, x, y, threat):
    return x, torch.ones(len(x), dtype=torch.bool)


def takes_a_gradient(model, x, y, threat):
    x.requires_grad_(True)
    return torch.autograd.grad(model(x).sum(), x)[0]


def raises(model, x, y, threat):
    raise ValueError("this attack cannot run")


def exits(model, x, y, threat):
    raise SystemExit(5)


CHEATS = {
    "black": "outside linf:1/20",
    "out_of_ball": "outside linf:1/20",
    "out_of_range": "outside [0, 1]",
    "not_a_number": "not finite",
    "wrong_shape": "wrong shape",
    "wrong_type": "wrong type",
    "modifies_weights": "modified the model (weights)",
    "flips_train_mode": "modified the model (train mode)",
    "patches_forward": "modified the model (hooks)",
    "hidden_patch": "modified the model (behaviour)",
}
"""Cheat -> why its shard is refused."""

FAILURES = {
    "returns_a_tuple": "returned tuple",
    "raises": "ValueError: this attack cannot run",
    "exits": "SystemExit: 5",
    "takes_a_gradient": "asked for a gradient",
}
"""Attack -> the line about its failure."""


@hookimpl
def harness_datasets():
    yield Dataset(
        name="toy", load=load_toy, classes=4, shape=toys.SHAPE,
        budgets={"linf": Fraction(1, 20), "l2": Fraction(1, 2)}, recipes=(RECIPE,),
    )  # fmt: skip


@hookimpl
def harness_architectures():
    yield Architecture(name="tiny", build=lambda shape, classes: toys.TinyNet(classes))


@hookimpl
def harness_defenses():
    yield Defense(name="plain", step=plain_step)
    yield Defense(name="robust", step=robust_step, params={"mix": 1.0}, mandatory=("one_step",))
    yield Defense(name="untrainable", step=broken_step)


@hookimpl
def harness_attacks():
    yield Attack(name="unchanged", run=unchanged, threats=("none",), access="decision", groups=("all",))
    yield Attack(name="one_step", run=one_step, threats=("linf",), groups=("all",))
    yield Attack(name="random_signs", run=random_signs, threats=("linf",), access="decision", groups=("all",))
    yield Attack(name="needs_many", run=unchanged, threats=("none",), min_classes=50, groups=("all",))
    yield Attack(name="every_second", run=every_second, threats=("linf",), cost=10)
    for cheat in [*CHEATS, "claims_success", *FAILURES]:
        access = "score" if cheat == "takes_a_gradient" else "gradient"
        yield Attack(name=cheat, run=globals()[cheat], threats=("linf",), access=access)


class Offers:
    """A plugin of whatever it is given, each under its own hook."""

    def __init__(self, *specs: object) -> None:
        self.specs = specs

    def of(self, kind: type) -> list[object]:
        return [spec for spec in self.specs if type(spec) is kind]

    @hookimpl
    def harness_attacks(self):
        return self.of(Attack)

    @hookimpl
    def harness_defenses(self):
        return self.of(Defense)

    @hookimpl
    def harness_datasets(self):
        return self.of(Dataset)

    @hookimpl
    def harness_architectures(self):
        return self.of(Architecture)

    @hookimpl
    def harness_threat_models(self):
        return self.of(ThreatKind)

    @hookimpl
    def harness_analyses(self):
        return self.of(Analysis)


def toy_registry(*others: object) -> Registry:
    """The built-in threat kinds, this module and any further plugins."""
    from support import plugins as toy_plugins

    sources = {"norms": norms, "toys": toy_plugins, **{f"other{i}": o for i, o in enumerate(others)}}
    results = [
        load(Provider(name, f"dist-{name}", "1.0"), lambda module=module: module) for name, module in sources.items()
    ]
    return Registry([r for r in results if isinstance(r, Loaded)], [r for r in results if not isinstance(r, Loaded)])
