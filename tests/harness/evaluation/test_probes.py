"""Four planted masked models raise the right flag each; plain ones raise none."""

import pytest
import torch
from torch import nn
from torch.autograd import grad

from harness.conformance import toys
from harness.evaluation.judge import Judge
from harness.evaluation.probes import probe
from harness.results import audit
from harness.results.rows import rows
from support.attacks import Masked
from support.networks import Turned
from support.records import record


class Quantised(nn.Module):
    """Rounds its input to five levels, as a defense by input quantisation does."""

    def __init__(self):
        super().__init__()
        self.inner = toys.tiny_net()

    def forward(self, x):
        return self.inner(torch.round(4 * x) / 4)


class Steep(Quantised):
    """Logits times 1e4: cross-entropy saturates."""

    def forward(self, x):
        return 1e4 * self.inner(x)


class Detached(Quantised):
    def forward(self, x):
        return self.inner(x.detach()).detach()


class Noisy(Quantised):
    def forward(self, x):
        return self.inner(x) + 0.1 * torch.randn(len(x), 4)


class LogSoftmax(Quantised):
    def forward(self, x):
        return self.inner(x).log_softmax(dim=1)


class Purifier(Quantised):
    """Improves its input by a gradient step of its own, as test-time defenses do."""

    def forward(self, x):
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.inner(point).logsumexp(dim=1).sum(), point)
        return self.inner(x + 0.01 * gradient.sign())


class Backwards(Quantised):
    """Answers honestly and points the other way."""

    def forward(self, x):
        return self.inner(Turned.apply(x))


class Told(Quantised):
    """Takes labels, as a network that treats them at training time does."""

    def forward(self, x, labels=None):
        return self.inner(x)


class Uneven(Quantised):
    """Sure of itself by margins of up to 40: far, but within what float32 can differentiate."""

    def forward(self, x):
        logits = self.inner(x)
        return 20 * logits / logits.abs().amax()


def probed(model):
    x, y = toys.images(n=40)
    return probe(Judge(model, 4, toys.SHAPE), x, y)


def probe_flags(model):
    made = record()
    made["outcome"]["probes"] = probed(model)
    (row,) = rows([made])
    return set(audit.flags(row))


@pytest.mark.parametrize(
    ("model", "raised"),
    [
        (Quantised, {"zero_gradients", "eps_floor"}), (Detached, {"zero_gradients", "eps_floor"}),
        (Steep, {"zero_gradients"}), (Noisy, {"stochastic"}), (LogSoftmax, {"probability_outputs"}),
        (Purifier, {"dynamic"}), (Backwards, {"eps_floor"}), (Told, {"train_labels_at_test"}),
    ],
)  # fmt: skip
def test_a_masked_model_raises_the_right_flags(model, raised):
    assert probe_flags(model()) == raised


def test_a_masked_class_hides_no_noise():
    """The same noise beside a class that does not exist; the network without it is the oracle."""
    seen, masked = (
        probe(Judge(model, classes, toys.SHAPE), *toys.images(n=40))["logit_noise"]
        for model, classes in ((Noisy(), 4), (Masked(Noisy()), 5))
    )
    assert masked == seen > 0.01
    assert probe(Judge(Masked(toys.tiny_net()), 5, toys.SHAPE), *toys.images(n=40))["logit_noise"] == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_plain_model_raises_none(seed):
    assert probe_flags(toys.tiny_net(seed=seed)) == set()


def test_a_confident_model_raises_none():
    assert probe_flags(Uneven()) == set()


def test_a_softmax_is_seen_as_what_it_is_and_logits_that_sum_to_one_are_not():
    class Centred(Quantised):
        def forward(self, x):
            logits = self.inner(x)
            return 100 * (logits - logits.mean(dim=1, keepdim=True)) + 0.25

    class Softmax(Quantised):
        def forward(self, x):
            return self.inner(x).softmax(dim=1)

    assert probed(Softmax())["probabilities"] == 1
    assert probed(Centred())["probabilities"] == 0


class Distances(nn.Module):
    """Minus the squared distance to the mean of each class, or the distance itself turned round: all of one sign."""

    def __init__(self, means, sharpness=1.0, positive=False):
        super().__init__()
        self.means, self.sharpness, self.positive = means, sharpness, positive

    def forward(self, x):
        far = self.sharpness * (x.flatten(1)[:, None] - self.means[None]).square().sum(dim=2)
        return 1 / (1 + far) if self.positive else -far


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 1e4])
def test_distances_to_classes_are_no_probabilities(sharpness, positive):
    """Images that lie on their class: their own logit is 0 (or 1), and the others leave nothing beside it."""
    means = torch.rand(4, 64, generator=torch.Generator().manual_seed(0)).round()
    y = torch.arange(40) % 4
    x = means[y].view(40, *toys.SHAPE)
    logits = Distances(means, sharpness, positive)(x)
    by_accident = logits.sum(dim=1) if positive else logits.exp().sum(dim=1)
    assert bool(((by_accident - 1).abs() < 1e-4).all()) == (sharpness == 1e4 or (sharpness == 1 and not positive))
    assert probe(Judge(Distances(means, sharpness, positive), 4, toys.SHAPE), x, y)["probabilities"] == 0


@pytest.mark.parametrize("answer", [
    lambda z: z.softmax(dim=1), lambda z: z.log_softmax(dim=1), lambda z: (50 * z).softmax(dim=1),
    lambda z: (50 * z).log_softmax(dim=1), lambda z: (z.softmax(dim=1) + 1e-6).log(),
])  # fmt: skip
def test_probabilities_and_their_logarithms_are_seen_whatever_their_range(answer):
    class Normalised(Quantised):
        def forward(self, x):
            return answer(self.inner(x))

    assert probed(Normalised())["probabilities"] == 1


def test_shares_are_counted_image_by_image():
    class Half(Quantised):
        """No gradient for the images whose first pixel is bright."""

        def forward(self, x):
            bright = (x[:, :1, :1, :1] > 0.5).expand_as(x)
            return self.inner(torch.where(bright, x.detach(), x))

    x, _ = toys.images(n=40)
    share = float((x[:, 0, 0, 0] > 0.5).float().mean())
    seen = probed(Half())
    assert 0 < share < 1
    assert seen["zero_gradient_ce"] == pytest.approx(share)
    assert seen["zero_gradient_margin"] == pytest.approx(share)


def test_pixels_without_a_gradient_are_counted_one_by_one():
    class LeftBlind(Quantised):
        """Sees the three columns on the left without a gradient."""

        def forward(self, x):
            return self.inner(torch.cat([x[..., :3].detach(), x[..., 3:]], dim=3))

    assert probed(toys.tiny_net())["zero_gradient_pixels"] == 0
    assert probed(LeftBlind())["zero_gradient_pixels"] == 3 / 8
    steep = probed(Steep())
    assert steep["zero_gradient_pixels"] >= steep["zero_gradient_ce"] > steep["zero_gradient_margin"] == 0


@pytest.mark.parametrize(("lead", "standing"), [(0.0, 0.0), (1e3, 0.5), (-1e3, 0.5)])
def test_what_stands_at_eps_1_is_what_no_image_of_the_box_breaks(lead, standing):
    """A linear model is weakest in a corner of the box. A lead of 1000 for one class outweighs every corner."""
    model, x, y, _ = toys.linear_problem("linf", n=40)
    with torch.no_grad():
        model[1].bias[1] += lead
    weights = model[1].weight[1] - model[1].weight[0]
    for label, sign in ((0, 1), (1, -1)):
        corner = (sign * weights > 0).float().view(1, *toys.SHAPE)
        margin = model(corner)[0]
        assert (margin.argmax() == label) == (lead * (2 * label - 1) > 0), "the closed form"
    assert probe(Judge(model, 2, toys.SHAPE), x, y)["standing_at_eps_1"] == standing


def test_the_walk_ends_where_each_image_falls_and_those_that_were_wrong_do_not_stand():
    """Image by image, without leaving any out."""
    model, (x, y) = toys.tiny_net(seed=2), toys.images(n=40)
    standing = 0
    for image, label in zip(x.split(1), y.split(1), strict=True):
        stands, point = True, image
        for _ in range(21):
            point = point.detach().requires_grad_(True)
            logits = model(point)
            stands &= bool(logits.argmax() == label)
            wrong = logits[0][[k for k in range(4) if k != label]].max()
            (gradient,) = torch.autograd.grad(logits[0, label] - wrong, point)
            point = (point - 0.1 * gradient.sign()).clamp(0, 1)
        standing += stands
    assert probed(model)["standing_at_eps_1"] == pytest.approx(standing / 40)


def test_a_majority_decides_what_stands_in_a_random_network():
    class Coin(Quantised):
        """Wrong in a third of all passes, about everything."""

        def forward(self, x):
            logits = self.inner(x.detach())
            return torch.where(torch.rand(len(x), 1) < 1 / 3, logits.roll(1, dims=1), logits)

    x, _ = toys.images(n=100)
    with torch.no_grad():
        y = toys.tiny_net()(x).argmax(dim=1)
    once, often = (probe(Judge(Coin(), 4, toys.SHAPE, votes=n), x, y)["standing_at_eps_1"] for n in (1, 101))
    assert once < 0.1
    assert often > 0.9


def by_grad(value, point):
    return grad(value, point)[0]


def by_backward(value, point):
    value.backward()
    return point.grad


def by_func(value, point):
    del value
    return torch.func.grad(lambda x: x.square().sum())(point)


@pytest.mark.parametrize("ask", [by_grad, by_backward, by_func])
def test_every_way_to_ask_for_a_gradient_is_counted(ask):
    """`grad` was imported before the probe: replacing it in torch would not be noticed."""

    class Asking(Quantised):
        def forward(self, x):
            with torch.enable_grad():
                point = x.detach().requires_grad_(True)
                found = ask(self.inner(point).logsumexp(dim=1).sum(), point)
            return self.inner(x + 0.01 * found.detach().sign())

    assert probed(Asking())["gradient_calls"] == 1


def test_a_default_device_does_not_double_the_count():
    torch.set_default_device("cpu")
    try:
        assert probed(Purifier())["gradient_calls"] == 1
    finally:
        torch.set_default_device(None)


def test_one_probe_leaves_no_trace_for_the_next():
    """AutoAttack's own counters stay raised for every later model of a process."""
    grad, backward = torch.autograd.grad, torch.autograd.backward
    state = torch.get_rng_state()
    before = probed(toys.tiny_net())
    assert probed(Purifier())["gradient_calls"] == 1
    assert probed(toys.tiny_net()) == before
    assert (torch.autograd.grad, torch.autograd.backward) == (grad, backward)
    assert torch.equal(torch.get_rng_state(), state)
