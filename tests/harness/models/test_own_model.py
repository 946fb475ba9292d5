"""A user's own network: found, called, filled, tried out, refused in one line, and attacked from the command line."""

import hashlib
import json
import os
import re
import sys
import textwrap
from fractions import Fraction

import pytest
import safetensors.torch
import torch
from torch import nn

from harness.data.dataset import LoadedDataset
from harness.errors import CheckpointError, UsageError
from harness.models.factory import find_factory
from harness.models.own_model import own_model
from harness.registry.discovery import discover
from harness.registry.registry import Registry
from harness.types import Dataset, Defense
from support.torch_files import REFUSED, refused, refused_before_2_10, told

DIGITS = Dataset(
    name="digits", load=lambda *_, **__: None, classes=10, shape=(1, 8, 8), budgets={"linf": Fraction(1, 5)}
)
SOURCE = """
import torch
from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def asks(shape, classes, scale=2.0):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


def random(seed=None):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


class Net(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Flatten(), nn.Linear(64, classes))


def raises():
    raise ValueError("no idea\\nwhat to do")


def leaves():
    raise SystemExit("bye")


def returns_a_number():
    return 3


def wants_more(shape, device, size):
    return build()


def five_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))


def other_images():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def double():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()


class NotANumber(nn.Module):
    def forward(self, x):
        return torch.full((len(x), 10), torch.nan)


ready = build()
"""


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, target) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with `net.py` and the package `pkg` in it, which is the current one; imports are undone."""
    (tmp_path / "net.py").write_text(SOURCE)
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "parts.py").write_text("from net import build\n")
    (tmp_path / "pkg" / "broken.py").write_text("import absent_library\n")
    (tmp_path / "pkg" / "wrong.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("net", "pkg", "own_model_net"):
            del sys.modules[name]


def tensors(scale: float = 1.0) -> dict[str, torch.Tensor]:
    weight = torch.arange(640, dtype=torch.float32).reshape(10, 64) * scale / 640
    return {"1.weight": weight, "1.bias": torch.linspace(0, 1, 10)}


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def loaded(model):
    """The network as a run gets it."""
    defense = model.join(discover()).get(Defense, model.name).spec
    return defense.load(data=LoadedDataset(DIGITS, "digits", None))


@pytest.mark.parametrize(
    ("text", "name", "file"),
    [
        ("net:build", "net.build", "net.py"),
        ("net.py:build", "net.build", "net.py"),
        ("./net.py:Net", "net.Net", "net.py"),
        ("pkg.parts:build", "pkg.parts.build", "net.py"),
        ("torch.nn:Identity", "torch.nn.Identity", "linear.py"),
    ],
)
def test_a_function_is_found_and_named_with_the_file_that_defines_it(here, text, name, file):
    found = find_factory(text)
    assert found.name == name
    assert found.source.name == file
    if file == "net.py":
        assert found.sha256 == hashlib.sha256(SOURCE.encode()).hexdigest()


def test_a_file_brings_its_folder_and_takes_no_name_from_anything(here, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    (other / "json.py").write_text("import beside\n\n\ndef build():\n    return beside.network()\n")
    (other / "beside.py").write_text("from torch import nn\n\n\ndef network():\n    return nn.Flatten()\n")
    network = find_factory(f"{other / 'json.py'}:build").network((1, 8, 8), 10)
    del sys.modules["beside"]
    assert isinstance(network, nn.Flatten)
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("net", r"--model 'net': write package.module:function or file.py:function"),
        (":build", r"write package.module:function"),
        ("net:", r"write package.module:function"),
        ("absent.py:build", r"no such file: absent.py"),
        ("absent.parts:build", r"no module 'absent', here or installed"),
        ("pkg.absent:build", r"no module 'pkg.absent', here or installed"),
        ("pkg.broken:build", r"importing pkg.broken failed \(ModuleNotFoundError: No module named 'absent_library'\)"),
        ("pkg.wrong:build", r"importing pkg.wrong failed \(ZeroDivisionError: division by zero\)"),
        ("net:biuld", r"'biuld' does not exist in net. Did you mean build\?"),
        ("net:ready", r"'ready' is a Sequential, not a function in net"),
    ],
)
def test_what_cannot_be_found_is_one_line(here, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        find_factory(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("raises", r"the factory raised ValueError: no idea$"),
        ("leaves", r"the factory raised SystemExit: bye$"),
        ("returns_a_number", r"the factory returned int, no torch.nn.Module"),
        ("wants_more", r"asks for device, size; it is handed shape and classes at most"),
        ("five_classes", r"the model answers \(8, 5\) for 8 images and 10 classes"),
        ("other_images", r"cannot take images of shape \(1, 8, 8\) \(RuntimeError: mat1 and mat2"),
        ("double", r"cannot take images of shape \(1, 8, 8\) \(RuntimeError: .*dtype"),
        ("NotANumber", r"the model answers NaN or infinity"),
    ],
)
def test_a_factory_that_does_not_do_is_one_line(here, function, message):
    model = own_model(f"net:{function}")
    with pytest.raises(UsageError, match=message) as caught:
        model.check(DIGITS, 0)
    assert str(caught.value).startswith(f"--model net:{function}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function", ["build", "asks", "Net"])
def test_the_network_is_that_of_the_factory_with_the_weights_given(here, function):
    safetensors.torch.save_file(tensors(), "w.safetensors")
    model = own_model(f"net:{function}", "w.safetensors")
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    by_hand = x.flatten(1) @ tensors()["1.weight"].T + tensors()["1.bias"]
    torch.testing.assert_close(loaded(model)(x), by_hand)
    model.check(DIGITS, 0)
    assert loaded(model) is loaded(model), "what was tried out is what runs"


def test_random_weights_are_those_of_the_train_seed(here):
    def weight(seed, draws):
        torch.rand(draws)
        model = own_model("net:random")
        model.check(DIGITS, seed)
        return loaded(model)[1].weight

    assert torch.equal(weight(0, 1), weight(0, 7))
    assert not torch.equal(weight(0, 1), weight(1, 1))


def test_a_folder_of_images_tells_its_shape_when_it_is_loaded(here):
    model = own_model("net:raises")
    model.check(Dataset(name="folder", load=None, classes=None, shape=None, budgets={}), 0)
    with pytest.raises(UsageError, match="the factory raised"):
        loaded(model)


@refused_before_2_10
def test_a_foreign_state_dict_is_read_by_its_hash(here):
    stored = {"state_dict": {f"module.{name}": tensor for name, tensor in tensors(2.0).items()}}
    torch.save(stored, "w.pt")
    found = sha256(here / "w.pt")
    for wrong in ("", "0" * 64):
        with pytest.raises(CheckpointError, match=told(rf"sha256 is {found}.*run it again with --sha256 {found}$")):
            own_model("net:build", "w.pt", wrong)
    model = own_model("net:build", "w.pt", found.upper())
    assert torch.equal(loaded(model)[1].weight, tensors(2.0)["1.weight"])


@pytest.mark.parametrize("name", ["w.pt", "w.bin"])
def test_below_torch_2_10_a_torch_file_is_refused_with_and_without_its_hash(here, monkeypatch, name):
    torch.save(tensors(2.0), name)
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    for given in ("", sha256(here / name)):
        with pytest.raises(CheckpointError, match=rf"{REFUSED}.*harness weights convert {name} --sha256 HEX$"):
            own_model("net:build", name, given)


def test_safetensors_may_be_pinned_too(here):
    safetensors.torch.save_file(tensors(), "w.safetensors")
    own_model("net:build", "w.safetensors", sha256(here / "w.safetensors"))
    with pytest.raises(CheckpointError, match="the file's sha256 is"):
        own_model("net:build", "w.safetensors", "0" * 64)


def test_a_pickle_with_code_is_refused_and_its_code_not_run(here):
    torch.save({"state_dict": tensors(), "args": Bomb(here / "ran")}, "w.pt")
    with pytest.raises(CheckpointError, match=told("would run code to load")) as caught:
        own_model("net:build", "w.pt", sha256(here / "w.pt"))
    assert "\n" not in str(caught.value)
    assert not (here / "ran").exists()


def test_weights_of_another_network_are_told(here):
    safetensors.torch.save_file({"2.weight": torch.zeros(1)}, "w.safetensors")
    with pytest.raises(CheckpointError, match=r"missing 1.bias.*They must be of what net:build returns"):
        own_model("net:build", "w.safetensors").check(DIGITS, 0)


def test_records_name_the_source_by_its_hash(here):
    entry = own_model("net:build").join(discover()).get(Defense, "net.build")
    assert entry.provider.origin == f"net.build@{hashlib.sha256(SOURCE.encode()).hexdigest()[:12]}"
    assert str(entry.provider) == "net.build (net.py)"


def test_a_name_that_is_taken_is_refused(here):
    model = own_model("net:build")
    with pytest.raises(UsageError, match=r"'net\.build' is provided twice"):
        model.join(model.join(Registry([])))


# ---- the command line


def bench(*more: str) -> list[str]:
    return ["bench", "--attacks", "clean,fgsm", "--limit", "60", *more]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "--defense"),
        (("--model", "net:five_classes"), "error: --model net:five_classes: the model answers (8, 5)"),
        (("--model", "net:build", "--sha256", "00"), "--sha256"),
        (("--model", "net:build", "--arch", "digits_net"), "--arch"),
        (("--model", "net:build", "--weights", "w.pt"), told("again with --sha256")),
        (("--model", "net:build", "--weights", "w.pt", "--sha256", "SHA"), told("would run code to load")),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(cli, more, message):
    (cli.folder / "net.py").write_text(SOURCE)
    torch.save(Bomb(cli.folder / "ran"), cli.folder / "w.pt")
    ran = cli.run(*bench(*(sha256(cli.folder / "w.pt") if word == "SHA" else word for word in more)))
    assert ran.returncode == 2, ran.stderr
    assert message in ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr
    assert not (cli.folder / "ran").exists()
    assert not (cli.folder / "results").exists()
    if "error:" in ran.stderr.splitlines()[-1]:
        assert len(ran.stderr.splitlines()) == 1


@pytest.mark.slow
def test_an_own_model_is_attacked_beside_a_defense_and_found_again(cli):
    (cli.folder / "net.py").write_text(SOURCE)
    safetensors.torch.save_file(tensors(), cli.folder / "w.safetensors")
    command = bench("--model", "net:build", "--weights", "w.safetensors", "-d", "raw", "-a", "ti_dim")
    ran = cli.run(*command)
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"net\.build \(w\): weights loaded", ran.stderr)
    (file,) = cli.folder.glob("results/*/records.jsonl")
    heads = [json.loads(line)["identity"] for line in file.read_text().splitlines()]
    own = [head for head in heads if head["defense"] == "net.build (w)"]
    assert {head["defense"] for head in heads} == {"net.build (w)", "raw"}
    assert {head["attack"] for head in own} == {"clean", "fgsm", "ti_dim"}
    assert {head["defense_origin"] for head in own} == {f"net.build@{hashlib.sha256(SOURCE.encode()).hexdigest()[:12]}"}
    assert "surrogate" in next(head for head in own if head["attack"] == "ti_dim")["supplies"]
    assert len({head["weights_sha256"] for head in own}) == 1
    again = cli.run(*command)
    assert "0 shards computed" in again.stderr
    (cli.folder / "net.py").write_text(SOURCE + "\n# edited\n")
    edited = cli.run(*bench("--model", "net:build", "--weights", "w.safetensors"))
    assert "2 shards computed, 0 reused" in edited.stderr


LENET = '''
from torch import nn


class LeNet(nn.Module):
    """advertorch's LeNet5, in its own names."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.linear1 = nn.Linear(7 * 7 * 64, 200)
        self.linear2 = nn.Linear(200, 10)
        self.act = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))

    def forward(self, x):
        x = self.act(self.conv2(self.act(self.conv1(x))))
        return self.linear2(self.linear1(x.flatten(1)).relu())
'''


@pytest.mark.slow
def test_a_public_checkpoint_has_its_published_accuracy(cli, shared):
    (cli.folder / "lenet.py").write_text(textwrap.dedent(LENET))
    weights = shared / "models" / "mnist_lenet5_advtrained.pt"
    given = ["--model", "lenet.py:LeNet", "--weights", str(weights), "--sha256", sha256(weights)]
    ran = cli.run("bench", *given, "--dataset", "mnist", "--data-root", str(shared / "data"), "--attacks", "clean")
    if refused(ran):
        return
    assert ran.returncode == 0, ran.stderr
    (file,) = cli.folder.glob("results/*/records.jsonl")
    outcomes = [json.loads(line)["outcome"] for line in file.read_text().splitlines()]
    assert sum(outcome["n"] for outcome in outcomes) == 10_000
    assert sum(outcome["clean"].count("1") for outcome in outcomes) == 9864
