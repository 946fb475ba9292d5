"""A user's network whose state is not only tensors: it is judged, or the true reason is told, with what to do."""

import copy
import io
import sys

import numpy as np
import pytest
import torch
from torch import nn

from harness.data.dataset import LoadedDataset
from harness.errors import HarnessError, UsageError
from harness.evaluation.judge import Judge
from harness.evaluation.oracle import Oracle
from harness.models.own_model import own_model
from harness.networks import settle, tensors_sha256
from harness.running.entry import bench
from harness.types import Dataset

TOY = Dataset(name="toy", load=lambda *_, **__: None, classes=10, shape=(1, 8, 8), budgets={})
NETS = '''
import threading

import torch
from torch import nn
from sklearn.datasets import load_digits


def net():
    """Nearest class mean of scikit-learn's digits, as one linear layer: about 90 % clean, no training."""
    X, y = load_digits(return_X_y=True)
    X, y = torch.tensor(X / 16.0, dtype=torch.float32), torch.tensor(y)
    m = torch.stack([X[y == c].mean(0) for c in range(10)])
    layer = nn.Linear(64, 10)
    layer.weight.data, layer.bias.data = 10 * m, -5 * (m * m).sum(1)
    return nn.Sequential(nn.Flatten(), layer)


class Wrap(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


class Extra(Wrap):
    def get_extra_state(self):
        return {"version": 3}

    def set_extra_state(self, state):
        pass


class Object(Wrap):
    def get_extra_state(self):
        return threading.Lock()

    def set_extra_state(self, state):
        pass


class NoReturn(Wrap):
    def train(self, mode=True):
        super().train(mode)

    def eval(self):
        self.train(False)

    def requires_grad_(self, flag=True):
        super().requires_grad_(flag)


class Sixteen(Wrap):
    def forward(self, x):
        return self.inner(x.half()).half()


class Inside(Wrap):
    def forward(self, x):
        return self.inner(x.double()).float()


class Kept(Wrap):
    def __init__(self, inner):
        super().__init__(inner)
        self.handle = threading.Lock()


class Counting(Wrap):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.inner(x) if self.calls < 40 else -self.inner(x)


class Norm(Wrap):
    def forward(self, x):
        return nn.functional.batch_norm(self.inner(x), None, None, training=True)


class Raises(Wrap):
    def forward(self, x):
        raise KeyError("no such thing")


def quantised():
    return torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8)


def extra():
    return Extra(net())


def scripted():
    return Wrap(torch.jit.script(net().eval()))


def scripted_alone():
    return torch.jit.script(net().eval())


def traced():
    return torch.jit.trace(net().eval(), torch.rand(2, 1, 8, 8))


def noreturn():
    return NoReturn(net())


def compiled():
    return torch.compile(net())


def parallel():
    return nn.DataParallel(net())


def training():
    return nn.Sequential(net(), nn.Dropout(0.5)).train()


def double_inside():
    return Inside(net().double())


def hooked():
    found = net()
    found.register_forward_hook(lambda module, inputs, answer: 2 * answer)
    return found


def unsaved_buffer():
    found = Wrap(net())
    found.register_buffer("mask", torch.ones(3), persistent=False)
    return found


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


def lazy_unused():
    found = Wrap(net())
    found.more = nn.LazyLinear(10)
    return found


def half():
    return net().half()


def sixteen():
    return Sixteen(net().half())


def an_object():
    return Object(net())


def kept():
    return Kept(net())


def counting():
    return Counting(net())


def norm():
    return Norm(net())


class Named(Wrap):
    def forward(self, x):
        return {"logits": self.inner(x)}


def a_dict():
    return Named(net())


def raises():
    return Raises(net())
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


JUDGED = (
    "quantised", "extra", "scripted", "scripted_alone", "traced", "noreturn", "compiled", "parallel", "training",
    "double_inside", "hooked", "unsaved_buffer",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", JUDGED)
def test_what_can_be_judged_is_judged_and_attacked(here, function):
    """Case 14: all but the lazy one answer as nearest class means do, 18 of 20; a number of an attack follows."""
    report = bench(model=f"nets.py:{function}", attacks="clean,fgsm,square[queries=20]", limit=20, device="cpu")
    (row,) = report.rows
    assert row.clean.count("1") == 18
    done = {cell.attack: cell.robust.count("1") for cell in row.cells.values()}
    assert done["square[queries=20]"] < 18
    if function == "quantised":
        (failure,) = report.failures
        assert failure.attack == "fgsm"
        assert "carry no gradient" in failure.reason
        assert "square, rays or spsa" in failure.reason
        assert "zero_gradients" in report.flags["nets.quantised"]
    else:
        assert done["fgsm"] < done["square[queries=20]"]
        assert not report.failures


def built(function: str) -> nn.Module:
    model = own_model(f"nets.py:{function}")
    model.check(TOY, 0)
    return model._load(data=LoadedDataset(TOY, "toy", None))


def test_a_lazy_network_is_given_its_shape_and_the_same_weights_each_time(here):
    first, second = built("lazy"), built("lazy")
    assert first[1].weight.shape == (10, 64)
    assert torch.equal(first[1].weight, second[1].weight)


REASONS = {
    "lazy_unused": r"lazy layers have no shape yet \(more\.weight.*run the network on one image before the factory",
    "half": r"cannot take images of shape \(1, 8, 8\) \(RuntimeError: .*float16.*call \.float\(\) on the network$",
    "sixteen": r"the model answers torch\.float16, not float32 logits: call \.float\(\) on them$",
    "a_dict": r"the model answers dict, not float32 logits: return one tensor, \(images, classes\)$",
    "an_object": r"its state dict holds a lock as '_extra_state', whose content cannot be hashed: let get_extra_state",
    "kept": r"the network cannot be copied, and attacks get a copy \(TypeError: .*pickle .*lock.*copy\.deepcopy copies",
    "raises": r"cannot take images of shape \(1, 8, 8\) \(KeyError: 'no such thing'\)$",
}


@pytest.mark.parametrize("function", REASONS)
def test_what_cannot_be_judged_says_why_and_what_to_do(here, function):
    model = own_model(f"nets.py:{function}")
    with pytest.raises(UsageError, match=REASONS[function]) as caught:
        model.check(TOY, 0)
    assert "\n" not in str(caught.value)
    blamed = "cannot take images" in str(caught.value)
    assert blamed == (function in ("half", "raises")), "only where the forward itself fails on images"


def test_a_batch_norm_without_statistics_needs_several_images(here):
    with pytest.raises(UsageError, match=r"not one alone \(ValueError: Expected more than 1 value per channel"):
        own_model("nets.py:norm").check(TOY, 0)


def test_a_network_that_keeps_state_gives_no_number(here):
    report = bench(model="nets.py:counting", attacks="clean", limit=20, device="cpu")
    assert {failure.state.value for failure in report.failures} == {"failed"}
    assert "it keeps state" in report.failures[0].reason


# What a state dict may hold.


def test_equal_content_is_an_equal_hash_and_other_content_another():
    made = [
        {"version": 3}, {"version": 4}, {"version": 3.0}, {"version": "3"}, {"version": True}, ["version", 3], None,
        {"version": [3]}, torch.tensor(3), np.int64(3), np.arange(3), {3}, b"3", io.BytesIO(b"3"), torch.int8,
        {"version": {"of": (1, torch.ones(2))}}, {"version": {"of": (1, torch.zeros(2))}},
    ]  # fmt: skip
    first = [tensors_sha256({"_extra_state": value}) for value in made]
    assert len(set(first)) == len(made)
    assert first == [tensors_sha256({"_extra_state": copy.deepcopy(value)}) for value in made]
    one, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    assert tensors_sha256({"": one}) == tensors_sha256({"": other})


def test_an_object_without_content_is_told():
    with pytest.raises(HarnessError, match="holds a function as 'x', whose content cannot be hashed"):
        tensors_sha256({"x": [len, lambda: 0][1:]})


@pytest.mark.filterwarnings("ignore")
def test_packed_weights_count():
    def packed(scale):
        layer = nn.Linear(4, 3)
        layer.weight.data, layer.bias.data = torch.arange(12.0).reshape(3, 4).sin() * scale, torch.zeros(3)
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8)

    hashes = [tensors_sha256(packed(scale).state_dict()) for scale in (1, 1, 2)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_settling_trusts_no_return_value():
    class Silent(nn.Linear):
        def train(self, mode=True):
            super().train(mode)

        def requires_grad_(self, flag=True):
            raise RuntimeError("not here")

    network = settle(Silent(4, 4))
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_network_is_changed_by_no_pass_and_counted():
    network = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval())
    judge = Judge(network, 10, (1, 8, 8))
    oracle = Oracle(judge.model, "gradient")
    before = oracle.fingerprint()
    x = torch.rand(3, 1, 8, 8, requires_grad=True)
    oracle(x).sum().backward()
    assert (oracle.forwards, oracle.backwards) == (3, 3)
    assert oracle.fingerprint() == before
    judge.check_unchanged()
