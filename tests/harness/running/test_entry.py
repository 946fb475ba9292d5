"""Python's way in: the same words, the same numbers and the same errors as the command line."""

import copy
import json
import subprocess
import sys
import threading

import pandas as pd
import pytest
import torch
from torch import nn

import harness
from conftest import ROOT
from harness.errors import NothingSelected, PluginError, StoreError, UsageError
from harness.models.in_memory import network_in_memory
from harness.storage.records import read_compacted

FRESH = """
import importlib, json, pkgutil, sys
import harness
before = callable(harness.bench)
for module in pkgutil.walk_packages(harness.__path__, "harness."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
after = [callable(getattr(harness, name)) for name in ("bench", "list_attacks", "load")]
print(json.dumps([before, *after, harness.bench.__module__]))
"""
LIGHT = """
import sys
import harness
harness.bench
try:
    harness.bench("aapl")
except Exception as error:
    print(type(error).__name__, "Did you mean: aalp" in str(error), "torch" in sys.modules)
"""


def linear(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("entry")


@pytest.fixture(scope="module")
def report(folder):
    return harness.bench(model=linear(), attacks="clean,fgsm,pgd-10", limit=60, output=folder / "results")


def fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_bench_is_a_function_whatever_was_imported():
    *callables, module = json.loads(fresh(FRESH))
    assert all(callables)
    assert module == "harness.running.entry"


def test_a_mistake_answers_without_torch():
    assert fresh(LIGHT).split() == ["UnknownName", "True", "False"]


def test_frames_say_what_the_records_say(report):
    (record,) = [r for r in read_compacted(report.path / "records.jsonl") if r["identity"]["attack"] == "fgsm"]
    observed = record["outcome"]
    robust = [c == "1" and b == "0" for c, b in zip(observed["clean"], observed["any"], strict=True)]
    cells = report.cells().set_index("attack")
    assert cells.loc["fgsm", "robust"] == pytest.approx(100 * sum(robust) / 60, abs=0.005)
    assert cells.loc["fgsm", "n"] == 60
    assert list(report.cells()["attack"]) == ["fgsm", "pgd-10", "clean"]
    (worst,) = report.worst_case().to_dict("records")
    assert (worst["threat"], worst["n"]) == ("linf:1/5", 60)
    assert worst["robust"] <= cells.loc[["fgsm", "pgd-10"], "robust"].min()
    assert worst["robust_low"] <= worst["robust"] <= worst["robust_high"]
    table = report.table()
    assert table.index.names == ["dataset", "threat", "attack"]
    assert table.loc[("digits", "linf:1/5", "worst case"), "Sequential"].startswith(f"{worst['robust']:.1f} [")
    assert set(report.flags) == {"Sequential"}


def test_a_notebook_shows_the_table_and_the_flags(report):
    shown = report._repr_html_()
    assert "<table" in shown
    assert "pgd-10" in shown
    assert str(report.path) in shown


def test_tables_lie_beside_the_records_and_load_gives_the_same(report):
    assert (report.path / "table.md").read_text().startswith("## digits, linf:1/5")
    again = harness.load(report.path)
    pd.testing.assert_frame_equal(again.cells(), report.cells())
    pd.testing.assert_frame_equal(again.worst_case(), report.worst_case())
    assert again.flags == report.flags


def test_load_reads_a_board_and_says_what_is_not_there(tmp_path):
    board = harness.load(ROOT / "leaderboards" / "digits-linf")
    assert {"aalp", "raw"} <= set(board.worst_case()["defense"])
    for place in (tmp_path / "nowhere", "nowhere"):
        with pytest.raises(StoreError, match=r"nowhere: no such run, board or records\.jsonl"):
            harness.load(place)


def test_rows_of_one_name_are_told_apart():
    board = harness.load(ROOT / "leaderboards" / "tpap-digits")
    names = board.table().columns
    assert len(names) == len(set(names)) == len(board.flags) == len(board.rows)
    assert {"pgd_at (digits_net[width=64], quick)", "pgd_at (digits_net[width=64], quick-0.3)"} <= set(names)
    cell = board.cells().query("defense == 'pgd_at' and recipe == 'quick' and attack == 'fgsm'")
    shown = board.table().loc[("digits", "linf:1/5", "fgsm"), "pgd_at (digits_net[width=64], quick)"]
    assert shown.startswith(f"{cell['robust'].iloc[0]:.1f} [")


def test_analyses_and_what_was_left_out_are_told(tmp_path):
    found = harness.bench(
        model=linear(), name="mine", attacks=["fgsm", "aa_few_class"], analyses="cost", limit=10, output=tmp_path
    )
    assert set(found.cells()["defense"]) == {"mine"}
    assert found.analyses().set_index("quantity").loc["parameters", "value"] == 64 * 16 + 16 + 160 + 10
    left_out = found.cells().set_index("attack").loc["aa_few_class"]
    assert (left_out["state"], "at most 4 classes" in left_out["reason"]) == ("not applicable", True)
    shown = found._repr_html_()
    assert "parameters" in shown
    assert "aa_few_class on mine" in shown
    board = harness.load(ROOT / "leaderboards" / "aalp-v1-confidence-sets")
    assert len(board.analyses())


def test_the_network_itself_is_not_changed(tmp_path):
    network = linear().train()
    before = copy.deepcopy(network.state_dict())
    harness.bench(model=network, attacks="fgsm", limit=10, output=tmp_path)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_same_network_again_is_reused_and_another_is_not(tmp_path):
    def keys(network):
        found = harness.bench(model=network, attacks="fgsm", limit=10, output=tmp_path)
        return {record["key"] for record in read_compacted(found.path / "records.jsonl")}

    first, softer = keys(linear()), linear()
    softer[2] = nn.GELU()  # the same weights, another function
    assert keys(linear()) == first
    assert not keys(softer) & first
    assert not keys(linear(seed=1)) & first


class Uncopied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.lock = linear(), threading.Lock()

    def forward(self, x):
        return self.inner(x)


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.inner = factor, linear()

    def forward(self, x):
        return self.factor * self.inner(x)


def test_what_identifies_a_network_in_memory():
    def content(network):
        return network_in_memory(network).sha256

    assert content(Scaled(1.0)) == content(Scaled(1.0))
    assert content(Scaled(1.0)) != content(Scaled(2.0)), "an attribute that no tensor holds"
    assert content(Scaled(1.0).train()) == content(Scaled(1.0).eval()), "the mode is set by the harness"
    other = type("Other", (Scaled,), {"__module__": "elsewhere"})
    assert content(other(1.0)) != content(Scaled(1.0)), "another class"


def test_records_say_that_the_network_was_in_memory(report):
    (record,) = [r for r in read_compacted(report.path / "records.jsonl") if r["identity"]["attack"] == "fgsm"]
    origin = f"Sequential@{network_in_memory(linear()).sha256[:12]}"
    assert record["identity"]["defense_origin"] == origin
    assert record["identity"]["recipe"] == "own"


def test_a_factory_is_called_with_what_it_asks_for(tmp_path):
    def build(shape, classes):
        assert (shape, classes) == ((1, 8, 8), 10)
        return linear()

    found = harness.bench(model=build, attacks="fgsm", limit=10, output=tmp_path)
    assert found.cells()["defense"].str.endswith("build").all()
    assert harness.bench(model=lambda: linear(), attacks="fgsm", limit=10, output=tmp_path).path != found.path


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ({}, UsageError, "name at least one"),
        ({"defense": "aapl"}, UsageError, "Did you mean: aalp"),
        ({"defense": "raw", "attacks": "pgd-11"}, UsageError, "unknown attack 'pgd-11'"),
        ({"defense": "raw", "batch_size": 0}, UsageError, "must be at least 1"),
        ({"defense": "raw", "time_limit": "soon"}, UsageError, "is no time"),
        ({"defense": "raw", "sha256": "00"}, UsageError, "goes with --model"),
        ({"model": 7}, UsageError, "neither a network"),
        ({"model": nn.Linear(3, 10)}, UsageError, "cannot take images of shape"),
        ({"model": linear, "arch": "lenet5"}, UsageError, "go with --defense"),
        ({"defense": "raw", "board": "digits-linf"}, UsageError, "a board says itself"),
        ({"board": "digits-linf", "attacks": "fgsm"}, UsageError, "a board says itself"),
        ({"board": "digits-linf", "seed": 4}, UsageError, "a board says itself"),
        ({"board": "digits-linf", "train_seed": 3}, UsageError, "a board says itself"),
        ({"board": "leaderboards/digits-linf", "dataset": "mnist"}, NothingSelected, "has no row on mnist"),
        ({"defense": "raw", "seed": "a"}, UsageError, "--seed: must be a whole number"),
        ({"defense": "raw", "batch_size": "a"}, UsageError, "--batch-size: must be a whole number"),
        ({"defense": "raw", "limit": "50"}, UsageError, "--limit: must be a number"),
        ({"defense": None}, UsageError, "name at least one"),
        ({"defense": "raw", "plugin": "nowhere.py"}, PluginError, r"--plugin nowhere\.py: .*no such Python file"),
        ({"model": Uncopied()}, UsageError, "cannot be copied .* give a function that returns it"),
        ({"defense": "raw", "attacks": ()}, NothingSelected, "nothing selected"),
    ],
    ids=lambda value: "",
)
def test_mistakes_raise_the_commands_errors(tmp_path, monkeypatch, words, error, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(error, match=message):
        harness.bench(output=tmp_path, **words)


def test_attacks_are_listed():
    listed = harness.list_attacks().set_index("attack")
    assert listed.loc["pgd-10", "threats"] == "linf"
    assert listed.loc["square", "access"] == "score"
    assert listed.index.is_unique


def test_the_command_and_the_function_write_the_same_records(cli, tmp_path):
    ran = cli.run("bench", "-d", "raw", "-a", "clean", "--limit", "1", "--recipe", "nowhere")
    assert ran.returncode == 2
    with pytest.raises(UsageError) as caught:
        harness.bench("raw", "clean", limit=1, recipe="nowhere", output=tmp_path)
    assert str(caught.value) in ran.stderr
