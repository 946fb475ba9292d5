"""The oracle counts what passes and gives no more than was declared."""

import pytest
import torch
from torch import nn

from harness.conformance import toys
from harness.evaluation.judge import Judge
from harness.evaluation.measurement import Measurement
from harness.evaluation.oracle import AccessDenied, NoGradient, Oracle, fingerprint
from harness.networks import tensors_sha256
from harness.types import ThreatModel
from support.measure import judged, planted


def test_it_counts_images_forward_and_gradients_back():
    oracle = Oracle(toys.tiny_net(), "gradient")
    x, _ = toys.images(n=8)
    with torch.no_grad():
        oracle(x)
    assert (oracle.forwards, oracle.backwards) == (8, 0)
    image = x[:3].clone().requires_grad_(True)
    torch.autograd.grad(oracle(image).sum(), image)
    assert (oracle.forwards, oracle.backwards) == (11, 3)
    logits = oracle(image)
    for k in range(4):
        torch.autograd.grad(logits[:, k].sum(), image, retain_graph=True)
    assert (oracle.forwards, oracle.backwards) == (14, 15)


def test_score_access_gives_logits_without_a_graph_and_no_weights():
    model = toys.tiny_net()
    oracle = Oracle(model, "score")
    x, _ = toys.images(n=4)
    assert torch.equal(oracle(x), model(x))
    assert list(oracle.parameters()) == []
    with pytest.raises(AccessDenied):
        oracle(x.requires_grad_(True))


def test_decision_access_gives_the_class_alone():
    model = toys.tiny_net()
    x, _ = toys.images(n=16)
    answers = Oracle(model, "decision")(x)
    assert torch.equal(answers.argmax(1), model(x).argmax(1))
    assert set(answers.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(answers.sum(1), torch.ones(16))


def test_parameters_take_no_gradient_and_the_original_is_never_held():
    model = toys.tiny_net()
    oracle = Oracle(model, "gradient")
    assert not any(p.requires_grad for p in oracle.parameters())
    assert {p.data_ptr() for p in oracle.parameters()}.isdisjoint(p.data_ptr() for p in model.parameters())


def _change_data(model):
    next(model.parameters()).data[0] += 1


def _change_numpy(model):
    next(model.parameters()).data.numpy()[...] *= 2


def _change_statistics(model):
    model.layer1[1].running_mean += 1


def _replace_layer(model):
    model.layer1[2] = torch.nn.Identity()


def _train(model):
    model.layer2.train()


def _leave_gradient(model):
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))


def _unfreeze(model):
    next(model.parameters()).requires_grad_(not next(model.parameters()).requires_grad)


def _hook(model):
    model.head.register_forward_pre_hook(lambda module, inputs: None)


def _patch(model):
    model.head.forward = lambda x: x


MUTATIONS = (
    _change_data, _change_numpy, _change_statistics, _replace_layer, _train, _leave_gradient, _unfreeze, _hook, _patch,
)  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_every_mutation_changes_the_fingerprint(mutation):
    model = toys.tiny_net()
    before = fingerprint(model)
    assert fingerprint(model) == before
    mutation(model)
    assert fingerprint(model) != before


def test_the_hash_of_tensors_sees_names_shapes_types_and_bytes():
    tensors = {"a": torch.arange(6.0), "b": torch.zeros(2)}
    variants = [
        {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(2)},
        {"a": torch.arange(6.0).double(), "b": torch.zeros(2)},
        {"a": torch.arange(6.0), "c": torch.zeros(2)},
        {"a": torch.arange(6.0), "b": torch.tensor([0.0, -0.0])},
    ]
    reference = tensors_sha256(tensors)
    assert reference == tensors_sha256(dict(reversed(list(tensors.items()))))
    assert all(tensors_sha256(variant) != reference for variant in variants)


class WithoutGradient(nn.Module):
    """Answers as its network does, by way of numpy."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = toys.tiny_net()

    def forward(self, x):
        return self.inner(x).detach()


def one_step_of(model, x, y, threat, *, ctx):
    x.requires_grad_(True)
    return torch.autograd.grad(model(x).sum(), x)[0]


def looks_only(model, x, y, threat, *, ctx):
    model(x.requires_grad_(True))
    return x.detach()


def forgets(model, x, y, threat, *, ctx):
    return torch.autograd.grad(model(x).sum(), x)[0]


def test_a_model_without_gradients_is_named_with_what_can_be_done():
    x, y = toys.images(n=4)
    judge = Judge(WithoutGradient(), 4, toys.SHAPE)
    with pytest.raises(NoGradient, match=r"answers carry no gradient .* square, rays or spsa"):
        judged(planted(one_step_of), judge, x, y, ThreatModel.parse("linf:1/20"), {})
    assert isinstance(judged(planted(looks_only), judge, x, y, ThreatModel.parse("linf:1/20"), {}), Measurement)
    with pytest.raises(RuntimeError, match=r"not require grad|not have been used|does not require") as caught:
        judged(planted(forgets), Judge(toys.tiny_net(), 4, toys.SHAPE), x, y, ThreatModel.parse("linf:1/20"), {})
    assert not isinstance(caught.value, NoGradient), "the attack's own mistake"
