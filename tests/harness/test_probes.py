"""Four planted masked models raise the right flag each; plain ones raise none."""

import pytest
import torch
from torch import nn

from harness import audit
from harness.conformance import toys
from harness.judge import Judge
from harness.leaderboard.rows import rows
from harness.probes import probe
from toy_records import record


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


class Uneven(Quantised):
    """Sure of itself by margins of up to 40: far, but within what float32 can differentiate."""

    def forward(self, x):
        logits = self.inner(x)
        return 20 * logits / logits.abs().amax()


def measured(model):
    x, y = toys.images(n=40)
    return probe(Judge(model, 4, toys.SHAPE), x, y)


def flags(model):
    made = record()
    made["outcome"]["probes"] = measured(model)
    (row,) = rows([made])
    return set(audit.flags(row))


@pytest.mark.parametrize(
    ("model", "flag"),
    [
        (Quantised, "zero_gradients"), (Steep, "zero_gradients"), (Detached, "zero_gradients"), (Noisy, "stochastic"),
        (LogSoftmax, "probability_outputs"), (Purifier, "dynamic"),
    ],
)  # fmt: skip
def test_a_masked_model_raises_the_right_flag(model, flag):
    assert flags(model()) == {flag}


@pytest.mark.parametrize("seed", range(4))
def test_a_plain_model_raises_none(seed):
    assert flags(toys.tiny_net(seed=seed)) == set()


def test_a_confident_model_raises_none():
    assert flags(Uneven()) == set()


def test_a_softmax_is_seen_as_what_it_is_and_logits_that_sum_to_one_are_not():
    class Centred(Quantised):
        def forward(self, x):
            logits = self.inner(x)
            return 100 * (logits - logits.mean(dim=1, keepdim=True)) + 0.25

    class Softmax(Quantised):
        def forward(self, x):
            return self.inner(x).softmax(dim=1)

    assert measured(Softmax())["probabilities"] == 1
    assert measured(Centred())["probabilities"] == 0


def test_shares_are_counted_image_by_image():
    class Half(Quantised):
        """No gradient for the images whose first pixel is bright."""

        def forward(self, x):
            bright = (x[:, :1, :1, :1] > 0.5).expand_as(x)
            return self.inner(torch.where(bright, x.detach(), x))

    x, _ = toys.images(n=40)
    share = float((x[:, 0, 0, 0] > 0.5).float().mean())
    seen = measured(Half())
    assert 0 < share < 1
    assert seen["zero_gradient_ce"] == pytest.approx(share)
    assert seen["zero_gradient_margin"] == pytest.approx(share)


def test_a_default_device_does_not_double_the_count():
    torch.set_default_device("cpu")
    try:
        assert measured(Purifier())["gradient_calls"] == 1
    finally:
        torch.set_default_device(None)


def test_one_probe_leaves_no_trace_for_the_next():
    """AutoAttack's own counters stay raised for every later model of a process."""
    grad, backward = torch.autograd.grad, torch.autograd.backward
    state = torch.get_rng_state()
    before = measured(toys.tiny_net())
    assert measured(Purifier())["gradient_calls"] == 1
    assert measured(toys.tiny_net()) == before
    assert (torch.autograd.grad, torch.autograd.backward) == (grad, backward)
    assert torch.equal(torch.get_rng_state(), state)
