"""Cases 04 and 06: a user's random network, which declares nothing, is judged by a majority and says so."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from torch import nn

from harness.data.seeds import permutation
from harness.running.entry import bench
from harness_vision.datasets import digits

NET = '''
import torch
from torch import nn
from sklearn.datasets import load_digits


class Means(nn.Module):
    """Nearest class mean of scikit-learn's digits, as one linear layer."""

    def __init__(self):
        super().__init__()
        X, y = load_digits(return_X_y=True)
        X, y = torch.tensor(X / 16.0, dtype=torch.float32), torch.tensor(y)
        m = torch.stack([X[y == c].mean(0) for c in range(10)])
        self.layer = nn.Linear(64, 10)
        self.layer.weight.data, self.layer.bias.data = 10 * m, -5 * (m * m).sum(1)

    def forward(self, x):
        return self.layer(x.flatten(1))


class Sometimes(Means):
    def forward(self, x):
        return super().forward(nn.functional.avg_pool2d(x, 5, 1, 2) if float(torch.rand(())) < 0.1 else x)


class Drop(Means):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.5))


class Masked(Drop):
    def forward(self, x):
        return super().forward(x).index_fill(1, torch.tensor([7]), -1e9)


class BesideOthers(Means):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x - x.mean(0) / 2, 0.3))
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def majority(name: str, n: int = 100, passes: int = 2001) -> int:
    """How many of the first n images the majority of many passes gets right; nothing of the harness judges here."""
    spec = importlib.util.spec_from_file_location("by_hand", "net.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    part = digits("test", root=None, location="")
    chosen = permutation(len(part.labels), "test")[:n]
    x, y = torch.from_numpy(part.pixels[chosen]).float() / 16, torch.from_numpy(part.labels[chosen])
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        network: nn.Module = getattr(module, name)().eval()
        right = torch.stack([network(x).argmax(dim=1) == y for _ in range(passes)]).float().mean(dim=0)
    return int((right > 0.5).sum())


@pytest.mark.parametrize(("name", "expected", "points"), [("Sometimes", 92, 0), ("Drop", 80, 5), ("Masked", 71, 5)])
def test_the_majority_decides_and_the_flag_is_raised(here, name, expected, points):
    """`points`: by how much a majority of 11 may be off; 19 of 100 images are right about half of the time."""
    report = bench(model=f"net.py:{name}", attacks="clean,fgsm,pgd-10", limit=100, device="cpu")
    (row,) = report.rows
    by_majority = majority(name)
    assert by_majority == pytest.approx(expected, abs=2)
    assert row.clean.count("1") == pytest.approx(by_majority, abs=points)
    assert {cell.votes for cell in row.cells.values()} == {11}
    flags = report.flags[f"net.{name}"]
    assert "11 passes decide" in flags["stochastic"]
    assert "false_claims" not in flags, "no attack is to blame"
    assert not report.failures


def test_a_network_without_chance_is_judged_by_one_pass(here):
    report = bench(model="net.py:Means", attacks="clean", limit=100, device="cpu")
    assert {cell.votes for cell in report.rows[0].cells.values()} == {1}
    assert "stochastic" not in report.flags["net.Means"]
    assert report.rows[0].clean.count("1") == 92


def test_passes_that_look_for_chance_cost_the_attack_nothing(here):
    found = [bench(model=f"net.py:{name}", attacks="fgsm", limit=20, device="cpu") for name in ("Means", "Drop")]
    costs = [{(cell.forwards, cell.backwards) for cell in report.rows[0].cells.values()} for report in found]
    assert costs[0] == costs[1]
    assert np.isfinite(found[1].cells()["robust"].astype(float)).all()


def test_chance_hides_no_dependence_on_the_batch(here):
    for name, depends in (("BesideOthers", True), ("Drop", False)):
        flags = bench(model=f"net.py:{name}", attacks="clean", limit=20, device="cpu").flags[f"net.{name}"]
        assert "stochastic" in flags
        assert ("batch_dependent" in flags) == depends
