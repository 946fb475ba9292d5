"""A network of the user's that answers otherwise under the same bytes: nothing recorded of it is reused."""

import json
import os
import sys
from pathlib import Path

import pytest

from harness.errors import BoardMismatch
from harness.running.entry import bench
from support.bench import bench_toy

NET = """
import os
from pathlib import Path
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, shift):
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.layer.weight.data = torch.linspace(-1, 1, 640).sin().reshape(10, 64)
        self.shift = shift

    def forward(self, x):
        return self.layer(torch.roll(x, int(self.shift), 3).flatten(1)) * (1 + self.shift % 1)


def by_variable():
    return Net(float(os.environ.get("SHIFT", "0")))


def by_file():
    return Net(float(Path("shift.txt").read_text()))


def by_buffer():
    net = Net(0)
    net.register_buffer("mask", torch.tensor(float(os.environ.get("SHIFT", "0"))), persistent=False)
    net.register_forward_hook(lambda module, inputs, answer: answer.roll(int(module.mask), 1))
    return net


class Rounded(Net):
    # Answers the same whatever SHIFT says; only with it a gradient comes through the rounding.
    def forward(self, x):
        rounded = (4 * x).round() / 4
        return self.layer((x + (rounded - x).detach() if self.shift else rounded).flatten(1))


def by_gradient():
    return Rounded(float(os.environ.get("SHIFT", "0")))


class Random(Net):
    def forward(self, x):
        return super().forward(x + 0.3 * torch.randn_like(x))


def at_random():
    return Random(float(os.environ.get("SHIFT", "0")))


class Stream(Net):
    def forward(self, x):
        return self.layer((x + 0.3 * torch.randn(x.shape, generator=STREAM)).flatten(1))


STREAM = torch.Generator()
STREAM.seed()


def by_its_own_stream():
    return Stream(0)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv("SHIFT", raising=False)
    return tmp_path


def run(function: str, shift: str, attacks: str = "clean", output: str = "out") -> tuple[int, Path]:
    """How many clean images are right, and the folder of the run."""
    os.environ["SHIFT"] = shift
    Path("shift.txt").write_text(shift)
    report = bench(model=f"net.py:{function}", attacks=attacks, limit=30, output=output, device="cpu")
    return report.rows[0].clean.count("1"), report.path


@pytest.mark.parametrize("function", ["by_variable", "by_file", "by_buffer", "by_gradient", "at_random"])
def test_other_answers_under_the_same_bytes_refuse_the_reuse(here, monkeypatch, function):
    monkeypatch.setenv("SHIFT", "0")
    first, path = run(function, "0")
    assert run(function, "0") == (first, path), "the same is reused"
    before = (path / "run.json").read_bytes()
    for attacks in ("clean", "clean,fgsm"):
        with pytest.raises(BoardMismatch, match=rf"net\.{function}: its sources, weights and images are those of out/"):
            run(function, "3", attacks)
    assert (path / "run.json").read_bytes() == before
    assert run(function, "3", output="other")[1].parent.name == "other"
    assert run(function, "0") == (first, path)


def test_rounding_is_no_other_answer(here, monkeypatch):
    monkeypatch.setenv("SHIFT", "0")
    _, path = run("by_variable", "0")
    assert run("by_variable", "0.000001")[1] == path
    with pytest.raises(BoardMismatch):
        run("by_variable", "0.001")


def test_a_network_whose_randomness_no_seed_reaches_is_compared_with_nothing(here, monkeypatch):
    monkeypatch.setenv("SHIFT", "0")
    _, path = run("by_its_own_stream", "0")
    assert "answers" not in json.loads((path / "run.json").read_bytes())
    assert run("by_its_own_stream", "0")[1] == path


def test_what_others_left_in_run_json_is_no_reason_to_stop(here, monkeypatch):
    monkeypatch.setenv("SHIFT", "0")
    _, path = run("by_variable", "0")
    for name, text in (("a", "{"), ("b", '{"answers": 3}'), ("c", '{"answers": {"net.by_variable": 3}}'), ("d", "[]")):
        (path.parent / name).mkdir()
        (path.parent / name / "run.json").write_text(text)
    assert run("by_variable", "0")[1] == path


def test_the_document_of_a_defense_that_is_installed_says_what_it_did(tmp_path):
    found = bench_toy(tmp_path, attacks=["unchanged"], limit=20)
    assert "answers" not in json.loads((found.run / "run.json").read_bytes())


def test_the_refusal_is_a_line_and_exit_code_4(cli, monkeypatch):
    (cli.folder / "net.py").write_text(NET)
    command = ("bench", "--model", "net.py:by_variable", "--attacks", "clean", "--limit", "20", "-o", "out")
    monkeypatch.setenv("SHIFT", "0")
    assert cli.run(*command).returncode == 0
    monkeypatch.setenv("SHIFT", "2")
    ran = cli.run(*command)
    assert ran.returncode == 4, ran.stderr
    assert "error: net.by_variable: its sources, weights and images are those of out/" in ran.stderr
    assert "environment variable" in ran.stderr
    assert "Traceback" not in ran.stderr
