"""What an attack is handed as `ctx`: another network, training images, named features - and what that costs."""

import numpy as np
import pytest
import torch

from harness.conformance import toys
from harness.data.dataset import LoadedPart, split_sha256
from harness.errors import HarnessError, NotApplicable
from harness.evaluation.context import Supplies
from harness.evaluation.measurement import Measurement
from harness.networks import Classifier, stage_outputs
from harness.types import Attack, Split, ThreatModel
from support.attacks import context_on
from support.measure import measure, measured


def context_and_images(model=None, access="gradient", n=16, **supplies):
    x, y = toys.images(n=n)
    return *context_on(model or toys.tiny_net(), x, access=access, sha256=toys.TOY_SHA256, **supplies), x, y


# surrogate


def test_a_surrogate_answers_with_gradients_and_costs_the_target_nothing():
    other = toys.tiny_net(seed=9)
    oracle, ctx, x, _ = context_and_images(access="decision", surrogate=other)
    surrogate = ctx.surrogate()
    point = x.clone().requires_grad_(True)
    logits = surrogate(point)
    (found,) = torch.autograd.grad(logits[:, 0].sum(), point)
    wanted = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(other(wanted)[:, 0].sum(), wanted)
    assert torch.equal(logits, other(x))
    assert not torch.equal(logits, toys.tiny_net()(x))
    assert torch.equal(found, gradient)
    assert (oracle.forwards, oracle.backwards) == (0, 0)
    assert (surrogate.forwards, surrogate.backwards) == (16, 16)


def test_nothing_that_is_done_to_a_surrogate_reaches_the_next_one():
    other = toys.tiny_net(seed=9)
    _, ctx, x, _ = context_and_images(surrogate=other)
    before = other(x)
    broken = ctx.surrogate()
    for parameter in broken.parameters():
        parameter.data.zero_()
    broken.model.head.register_forward_hook(lambda module, inputs, output: output * 0)
    assert torch.equal(ctx.surrogate()(x), before)
    assert torch.equal(other(x), before)
    assert not any(parameter.grad is not None for parameter in other.parameters())


def test_a_surrogate_that_was_not_declared_is_refused_with_what_to_do():
    _, ctx, _, _ = context_and_images()
    with pytest.raises(HarnessError, match=r"declare needs=\('surrogate',\)"):
        ctx.surrogate()
    with pytest.raises(HarnessError, match="declare needs"):
        measure(
            Attack(name="undeclared", run=lambda model, x, y, threat, *, ctx: ctx.surrogate()(x), threats=("linf",))
        )


def test_an_attack_on_a_surrogate_is_measured_at_no_cost():
    def craft(model, x, y, threat, *, ctx):
        point = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(ctx.surrogate()(point)[:, 0].sum(), point)
        return (x + 0.05 * gradient.sign()).clamp(0, 1)

    spec = Attack(name="craft", run=craft, threats=("linf",), access="decision", needs=("surrogate",))
    supplies = Supplies(surrogate=toys.tiny_net(seed=9))
    x, y = toys.images(n=32)
    threat = ThreatModel.parse("linf:1/20")
    found = measured(spec, toys.tiny_net(), x, y, threat, {}, batch=10, supplies=supplies)
    assert (found.forwards, found.backwards) == (0, 0)
    assert "1" in found.last


# train_images


def split(labels, levels=255):
    stream = np.random.default_rng(0)
    pixels = stream.integers(0, levels + 1, (len(labels), 1, 8, 8), dtype=np.uint8)
    made = Split(pixels=pixels, labels=np.array(labels, dtype=np.int64), levels=levels)
    return LoadedPart(made, split_sha256(made))


@pytest.mark.parametrize("levels", [255, 16])
def test_training_images_of_a_label_are_all_of_them_in_the_order_of_the_split(levels):
    labels = [2, 0, 2, 1, 2, 0, 3, 2]
    train = split(labels, levels)
    _, ctx, _, _ = context_and_images(train=train)
    for label in range(5):
        wanted = [train.split.pixels[i] / levels for i, found in enumerate(labels) if found == label]
        found = ctx.train_images(label)
        assert found.shape == (len(wanted), 1, 8, 8)
        assert found.dtype == torch.float32
        for image, pixels in zip(found, wanted, strict=True):
            assert np.allclose(image.numpy(), pixels, atol=1e-7)


def test_what_an_attack_does_to_training_images_stays_with_it():
    train = split([1, 1, 0])
    pixels = train.split.pixels.copy()
    _, ctx, _, _ = context_and_images(train=train)
    before = ctx.train_images(1).clone()
    ctx.train_images(1).zero_()
    assert torch.equal(ctx.train_images(1), before)
    assert (train.split.pixels == pixels).all()


def test_training_images_that_were_not_declared_are_refused_with_what_to_do():
    with pytest.raises(HarnessError, match=r"declare needs=\('train_images',\)"):
        context_and_images()[1].train_images(0)


# features


class Wrapper(torch.nn.Module):
    """What a defense deploys around its network."""

    def __init__(self, inner):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))
        self.body = torch.nn.ModuleDict({"net": inner})

    def forward(self, x):
        return self.body["net"](1 - x) * self.scale


def hooks(model):
    return sum(
        len(getattr(module, kind))
        for module in model.modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    )


@pytest.mark.parametrize("wrapped", [False, True])
def test_features_are_the_stages_of_the_network_for_one_forward_each(wrapped):
    net = toys.tiny_net()
    model = Wrapper(net) if wrapped else net
    oracle, ctx, x, _ = context_and_images(model)
    before, prints = hooks(oracle), oracle.fingerprint()
    found = ctx.features(x[:5])
    wanted = net.stages((1 - x if wrapped else x)[:5])
    assert list(found) == list(wanted) == ["layer1", "layer2"]
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert (oracle.forwards, oracle.backwards) == (5, 0)
    assert hooks(oracle) == before
    assert oracle.fingerprint() == prints
    ctx.features(x)
    assert oracle.forwards == 5 + 16


def test_stages_are_what_a_plain_loop_over_the_layers_gives():
    net = toys.tiny_net()
    _, ctx, x, _ = context_and_images(net)
    first = net.layer1(x)
    found = ctx.features(x)
    assert torch.equal(found["layer1"], first)
    assert torch.equal(found["layer2"], net.layer2(first))
    assert found["layer1"].shape == (16, 8, 8, 8)


def test_features_have_a_graph_back_to_the_images_and_none_to_the_weights():
    net = toys.tiny_net()
    oracle, ctx, x, _ = context_and_images(net)
    point = x.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(ctx.features(point)["layer1"].square().sum(), point)
    wanted = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(net.layer1(wanted).square().sum(), wanted)
    assert torch.allclose(found, gradient)
    assert not any(parameter.requires_grad for parameter in oracle.parameters())


class Fragile(toys.TinyNet):
    def features(self, x):
        found = super().features(x)
        if float(x.max()) > 2:
            raise ValueError("too bright")
        return found


def test_no_hook_stays_behind_when_a_forward_fails():
    torch.manual_seed(0)
    model = Fragile().eval()
    oracle, ctx, x, _ = context_and_images(model)
    before = hooks(oracle)
    with pytest.raises(ValueError, match="too bright"):
        ctx.features(x + 9)
    assert hooks(oracle) == before
    assert torch.equal(oracle(x), model(x))
    own = hooks(model)
    with pytest.raises(ValueError, match="too bright"), stage_outputs(model) as collected:
        model(x + 9)
    assert hooks(model) == own
    assert set(collected) == {"layer1", "layer2"}


def test_a_network_without_named_stages_is_not_applicable_and_is_not_asked():
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    oracle, ctx, x, _ = context_and_images(plain)
    with pytest.raises(NotApplicable, match="stages"):
        ctx.features(x)
    assert oracle.forwards == 0


@pytest.mark.parametrize("access", ["score", "decision"])
@pytest.mark.parametrize("model", [toys.tiny_net, lambda: torch.nn.Flatten()])
def test_features_need_gradient_access(access, model):
    oracle, ctx, x, _ = context_and_images(model(), access)
    with pytest.raises(HarnessError, match="access='gradient'") as caught:
        ctx.features(x)
    assert not isinstance(caught.value, NotApplicable), "the plugin's mistake, not the model's"
    assert oracle.forwards == 0


class Buried(Classifier):
    """Names a module that is not on the first level."""

    stage_names = ("body.1", "body.0")

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 6))
        self.head = torch.nn.Linear(6, 4)

    def features(self, x):
        return self.body(x)


def test_stages_may_lie_deep_and_are_told_as_they_are_named():
    torch.manual_seed(0)
    net = Buried().eval()
    _, ctx, x, _ = context_and_images(net)
    found = ctx.features(x)
    assert torch.equal(found["body.0"], x.flatten(1))
    assert torch.equal(found["body.1"], net.features(x))
    assert set(found) == {"body.0", "body.1"}


def test_an_attack_that_looks_at_features_is_charged_and_accused_of_nothing():
    def looks(model, x, y, threat, *, ctx):
        for _ in range(3):
            ctx.features(x)
        return x

    found, _ = measure(Attack(name="looks", run=looks, threats=("linf",), needs=("features",)), batch=10)
    assert isinstance(found, Measurement)
    assert (found.forwards, found.backwards) == (3 * 32, 0)
