"""How a cell may end without a number: out of time, not applicable, and what other cells and boards make of it."""

import csv
import dataclasses
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer

from harness.api import Architecture, Attack, Defense, Result
from harness.cli import bench as bench_command
from harness.conformance import toys
from harness.errors import NotApplicable, StoreError
from harness.leaderboard import board
from harness.leaderboard.tables import wide
from harness.leaderboard.tidy import tidy
from harness.reporter import Reporter
from harness.results import audit
from harness.results.rows import rows
from harness.running import entry
from harness.storage.records import read_compacted
from harness.storage.run_folder import RunFolder
from harness.types import CellState
from support.bench import bench_toy, report_of_run
from support.clock import Clock
from support.plugins import RECIPE, Offers, broken_step, plain_step, toy_registry


class Told(Reporter):
    """Keeps what it is told."""

    def __init__(self):
        self.notes, self.trained, self.shards = [], [], []

    def note(self, text):
        self.notes.append(text)

    def train_start(self, subject, epochs_done):
        self.trained.append((subject.defense, subject.train_seed))

    def shard_done(self, cells, done, shards, images):
        self.shards.append((cells[0].attack, images))


def bench(folder: Path, plugin: Offers, reporter=None, **asked):
    return bench_toy(folder, toy_registry(plugin), reporter, **asked)


def ended(outcome):
    return {failure.attack: failure.state for failure in outcome.failures}


def spans(outcome, attack):
    heads = [record["identity"] for record in outcome.records]
    return sorted((head["start"], head["stop"]) for head in heads if head["attack"] == attack)


def logs(outcome, folder):
    return [json.loads(path.read_bytes()) for path in sorted((outcome.run / folder).glob("*.json"))]


ALL_SPANS = [(0, 250), (250, 500), (500, 600)]


# Out of time


@pytest.fixture
def clock(monkeypatch):
    return Clock().install(monkeypatch)


def sleeper(clock, name="sleeper", probed=0.0, each=1.0, **kwargs):
    """Takes so many seconds for each image, and others where it is probed; draws, so that order would be noticed."""
    seen = []

    def sleep(model, x, y, threat, *, ctx):
        seen.append(len(x))
        clock.spend(len(x) * (each if len(x) > 16 else probed))
        try:
            model(x)
        except Exception:
            return x
        return (x + float(threat.eps) * ctx.noise("start:0").sign()).clamp(0, 1)

    return Attack(name=name, run=sleep, threats=("linf",), groups=("all",), **kwargs), seen


def test_a_cell_over_its_time_keeps_its_shards_and_the_rest_goes_on(tmp_path, clock):
    slow, _ = sleeper(clock, cost=1)
    cut = bench(tmp_path / "cut", Offers(slow), time_limit=499)
    assert ended(cut) == {"sleeper": "timeout"}
    assert spans(cut, "sleeper") == ALL_SPANS[:1], "the second shard was asked for after 500 seconds"
    assert {attack: spans(cut, attack) for attack in ("one_step", "random_signs", "unchanged")} == dict.fromkeys(
        ("one_step", "random_signs", "unchanged"), ALL_SPANS
    )
    assert "OutOfTime" in json.dumps(logs(cut, "attempts"))
    finished = bench(tmp_path / "cut", Offers(slow))
    assert (finished.computed, finished.reused, finished.failures) == (2, 3 * 3 + 1, [])
    assert finished.run == cut.run
    assert finished.records == bench(tmp_path / "whole", Offers(slow)).records


def test_a_run_with_a_cell_out_of_time_goes_on_no_board(tmp_path, clock):
    slow, _ = sleeper(clock)
    cut = bench(tmp_path, Offers(slow), time_limit=499, attacks=["sleeper", "one_step"])
    with pytest.raises(StoreError, match="2 of 6 records are missing"):
        board.build(tmp_path / "board", [cut.run])
    (row,) = rows(record for record in cut.records if record["identity"]["attack"] == "one_step")
    assert "n=600 partial" in wide([row], report_of_run(cut).states)
    assert "timeout" in wide([row], report_of_run(cut).states)


def test_every_run_of_an_attack_on_a_defense_has_the_whole_time(tmp_path, clock):
    slow, _ = sleeper(clock)
    again, _ = sleeper(clock, "again")
    found = bench(
        tmp_path, Offers(slow, again), time_limit=251, attacks=["sleeper", "again"], limit=250,
        defenses=["plain", "robust"],
    )  # fmt: skip
    assert found.failures == []
    assert found.computed == 4


def test_what_would_take_longer_than_its_time_is_not_started(tmp_path, clock):
    slow, seen = sleeper(clock, probed=1.0)
    told = Told()
    found = bench(tmp_path, Offers(slow), told, time_limit=599, attacks=["sleeper", "one_step"])
    assert seen == [4, 16]
    assert ended(found) == {"sleeper": "timeout"}
    assert found.failures[0].reason == "about 600 s, more than the limit of 599 s: not started"
    assert [log["outcome"] for log in logs(found, "attempts") if "not started" in log["outcome"]]
    assert spans(found, "one_step") == ALL_SPANS
    enough = bench(tmp_path, Offers(slow), told, time_limit=621, attacks=["sleeper", "one_step"])
    assert enough.failures == [], "probing took the other 20 seconds"
    assert "plain <- sleeper: about 600 s, limit 621 s" in told.notes


def test_only_what_is_missing_is_estimated(tmp_path, clock):
    slow, seen = sleeper(clock, probed=1.0)
    bench(tmp_path, Offers(slow), attacks=["sleeper"], limit=500)
    seen.clear()
    rest = bench(tmp_path, Offers(slow), attacks=["sleeper"], time_limit=130)
    assert seen == [4, 16, 100]
    assert rest.failures == []
    seen.clear()
    bench(tmp_path, Offers(slow), attacks=["sleeper"], time_limit=1)
    assert seen == [], "nothing is missing"


def test_without_a_limit_nothing_is_probed(tmp_path, clock):
    slow, seen = sleeper(clock)
    bench(tmp_path, Offers(slow), attacks=["sleeper"])
    assert seen == [250, 250, 100]


def test_the_limit_is_no_part_of_a_run_or_a_record(tmp_path, clock):
    free, limited = (
        bench(tmp_path / place, Offers(sleeper(clock)[0]), attacks=["sleeper"], time_limit=limit)
        for place, limit in (("a", None), ("b", 1e6))
    )
    assert free.run.name == limited.run.name
    assert free.records == limited.records


def test_an_attack_that_fails_while_it_is_probed_fails_as_it_would_have(tmp_path, clock):
    told = Told()
    found = bench(tmp_path, Offers(), told, time_limit=10, attacks=["raises", "one_step"])
    assert ended(found) == {"raises": "failed"}
    assert "ValueError: this attack cannot run" in found.failures[0].reason
    assert "plain <- raises: cannot be estimated, limit 10 s" in told.notes
    assert spans(found, "one_step") == ALL_SPANS


def test_what_is_out_of_time_while_it_is_probed_is_out_of_time(tmp_path, clock):
    slow, _ = sleeper(clock, probed=100.0)
    found = bench(tmp_path, Offers(slow), time_limit=10, attacks=["sleeper", "one_step"])
    assert ended(found) == {"sleeper": "timeout"}
    assert not spans(found, "sleeper")
    assert spans(found, "one_step") == ALL_SPANS


def test_a_halved_batch_is_logged_and_changes_no_record(tmp_path):
    def hungry(room):
        def noisy(model, x, y, threat, *, ctx):
            if len(x) > room:
                raise torch.OutOfMemoryError("out of memory")
            return (x + float(threat.eps) * ctx.noise("start:0").sign()).clamp(0, 1)

        return Offers(Attack(name="noisy", run=noisy, threats=("linf",)))

    roomy = bench(tmp_path / "a", hungry(1000), attacks=["noisy"])
    tight = bench(tmp_path / "b", hungry(40), attacks=["noisy"])
    assert tight.records == roomy.records
    assert {log["batch_size"] for log in logs(roomy, "attempts")} == {250, 100}
    assert {log["batch_size"] for log in logs(tight, "attempts")} == {32, 25}


# Not applicable


def inapplicable(model, x, y, threat):
    raise NotApplicable("the model names no stages")


def odd(model, x, y, threat, *, ctx, steps):
    raise NotApplicable("only even numbers of steps")


def half(model, x, y, threat, *, ctx):
    """Cannot go on in the last shard."""
    if len(x) == 100:
        raise NotApplicable("too few images")
    return x


NONE = Attack(name="inapplicable", run=inapplicable, threats=("linf",), groups=("all",), cost=1)
SHARING = [
    Attack(name=f"odd-{steps}", run=odd, threats=("linf",), prefix="steps", params={"steps": steps}) for steps in (1, 3)
]


def test_what_does_not_apply_is_a_state_with_its_reason_and_the_rest_goes_on(tmp_path):
    told = Told()
    found = bench(tmp_path, Offers(NONE), told)
    assert "inapplicable" not in {attack for attack, _ in told.shards}
    assert ("one_step", 600) in told.shards
    assert [(f.attack, f.state, f.reason) for f in found.failures] == [
        ("inapplicable", "not applicable", "the model names no stages")
    ]
    assert spans(found, "one_step") == ALL_SPANS
    (row,) = rows(found.records)
    table = wide([row], report_of_run(found).states)
    assert "| not applicable |" in table
    assert "- inapplicable on plain: not applicable, the model names no stages" in table
    assert "partial" not in table + tidy([row], report_of_run(found).states)
    lost = {**report_of_run(found).states, ("plain", "other", "linf:1/20"): (CellState.FAILED, "x")}
    assert "n=600 partial" in wide([row], lost), "what failed is still missed"
    lines = list(csv.DictReader(io.StringIO(tidy([row], report_of_run(found).states))))
    assert [(line["state"], line["robust"]) for line in lines if line["attack"] == "inapplicable"] == [
        ("not applicable", "")
    ]


def inapplicable_keys(outcome):
    return sorted(path.stem for path in (outcome.run / "inapplicable").glob("*.json"))


@pytest.mark.parametrize(
    "limit",
    [250, None],
)
@pytest.mark.parametrize("attacks", [[NONE], SHARING], ids=["one cell", "cells that share a run"])
def test_a_run_with_it_can_go_on_a_board(tmp_path, limit, attacks):
    names = [attack.name for attack in attacks]
    found = bench(tmp_path, Offers(*attacks), attacks=[*names, "one_step"], limit=limit)
    assert set(ended(found).values()) == {"not applicable"}
    document, keys = RunFolder(found.run).promised()
    assert set(document["expected"]) - set(keys) == set(inapplicable_keys(found))
    assert set(keys) == {record["key"] for record in found.records}
    board.build(tmp_path / "board", [found.run])
    assert board.check(tmp_path / "board") == len(found.records)
    assert "partial" not in (tmp_path / "board" / "table.md").read_text()
    log = json.loads(next((found.run / "inapplicable").iterdir()).read_bytes())
    assert log["outcome"] == found.failures[0].reason
    again = bench(tmp_path, Offers(*attacks), attacks=[*names, "one_step"], limit=limit)
    assert (again.computed, ended(again), inapplicable_keys(again)) == (0, ended(found), inapplicable_keys(found))


def test_a_shard_to_which_it_does_not_apply_takes_the_whole_cell_off_the_board(tmp_path):
    plugin = Offers(Attack(name="half", run=half, threats=("linf",)))
    found = bench(tmp_path, plugin, attacks=["half", "one_step"])
    assert ended(found) == {"half": "not applicable"}
    board.build(tmp_path / "board", [found.run])
    (row,) = rows(read_compacted(tmp_path / "board" / "records.jsonl"))
    assert {cell.attack for cell in row.cells.values()} == {"one_step"}


def test_a_run_with_a_failure_as_well_still_goes_on_no_board(tmp_path):
    found = bench(tmp_path, Offers(NONE), attacks=["inapplicable", "raises", "one_step"], limit=250)
    with pytest.raises(StoreError, match="1 of 2 records are missing"):
        board.build(tmp_path / "board", [found.run])


def test_it_is_no_failure_to_stop_at(tmp_path):
    found = bench(tmp_path, Offers(NONE), attacks=["inapplicable", "one_step"], limit=250, fail_fast=True)
    assert spans(found, "one_step") == [(0, 250)]


def test_features_of_a_network_without_named_stages_do_not_apply(tmp_path):
    def looks_inside(model, x, y, threat, *, ctx):
        ctx.features(x)
        return x

    def bare(shape, classes):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))

    attack = Attack(name="inside", run=looks_inside, threats=("linf",), needs=("features",))
    plugin = Offers(attack, Architecture(name="bare", build=bare))
    assert bench(tmp_path, plugin, attacks=["inside"], limit=20).failures == []
    assert ended(bench(tmp_path, plugin, attacks=["inside"], limit=20, arch="bare")) == {"inside": "not applicable"}


@pytest.mark.parametrize(
    ("attacks", "code"),
    [
        ("one_step", 0),
        ("inapplicable", 0),
        ("inapplicable,one_step", 0),
        ("raises,one_step", 3),
        ("inapplicable,raises", 3),
        ("black,inapplicable", 3),
        ("sleeper,inapplicable", 3),
    ],
)
def test_only_what_fails_gives_the_exit_code_of_failure(tmp_path, monkeypatch, capsys, clock, attacks, code):
    plugin = Offers(NONE, sleeper(clock, probed=1.0)[0])
    monkeypatch.setattr(entry, "find_plugins", lambda *_: toy_registry(plugin))
    with pytest.raises(typer.Exit) as left:
        bench_command.command(
            SimpleNamespace(params={}), ["plain"], [attacks], dataset="toy", limit=40, output=tmp_path, device="cpu",
            progress="none", time_limit="39s",
        )  # fmt: skip
    assert left.value.exit_code == code
    shown = capsys.readouterr().out
    assert ("not applicable  inapplicable on plain: the model names no stages" in shown) == ("inapplicable" in attacks)
    assert ("timeout  sleeper on plain" in shown) == ("sleeper" in attacks)


# What a run supplies


def transfer(name, seen=None, **kwargs):
    """One signed step on the surrogate."""

    def craft(model, x, y, threat, *, ctx):
        surrogate = ctx.surrogate()
        if seen is not None:
            seen.append([parameter.clone() for parameter in surrogate.parameters()])
        point = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(surrogate(point), y), point)
        return (x + float(threat.eps) * gradient.sign()).clamp(0, 1)

    return Attack(name=name, run=craft, threats=("linf",), needs=("surrogate",), **kwargs)


RAW = Defense(name="raw", step=plain_step)


def test_a_transfer_attack_is_recorded_with_the_network_it_was_crafted_on(tmp_path):
    told, plugin = Told(), Offers(transfer("first"), transfer("second"), RAW)
    found = bench(tmp_path, plugin, told, attacks=["first", "second", "one_step"])
    heads = {record["identity"]["attack"]: record["identity"] for record in found.records}
    (other,) = {r["identity"]["deployed_sha256"] for r in bench(
        tmp_path / "other", Offers(RAW), defenses=["raw"], attacks=["one_step"], train_seed=1
    ).records}  # fmt: skip
    assert {name: (head["knowledge"], head["supplies"]) for name, head in heads.items()} == {
        "first": ("transfer", {"surrogate": other}),
        "second": ("transfer", {"surrogate": other}),
        "one_step": ("static", {}),
    }
    assert told.trained == [("plain", 0), ("raw", 1)], "once, for both attacks"
    assert sum(note.startswith("surrogate raw (seed 1): weights trained") for note in told.notes) == 1
    assert sum(note.startswith("surrogate") for note in told.notes) == 1
    assert [record["outcome"]["forwards"] for record in found.records if record["identity"]["attack"] == "first"] == [
        0, 0, 0,
    ]  # fmt: skip
    again = bench(tmp_path, plugin, told, attacks=["first", "second", "one_step"])
    assert (again.computed, len(told.trained)) == (0, 2)
    elsewhere = bench(tmp_path, plugin, told, attacks=["first"], train_seed=5)
    assert told.trained[2:] == [("plain", 5), ("raw", 6)]
    assert elsewhere.records[0]["identity"]["supplies"] != {"surrogate": other}


def test_defenses_with_one_network_and_recipe_share_a_surrogate_and_it_is_the_one_handed_out(tmp_path):
    told, seen = Told(), []
    plugin = Offers(transfer("first", seen), RAW)
    found = bench(tmp_path, plugin, told, attacks=["first"], defenses=["plain", "robust", "raw"], limit=250)
    assert found.failures == []
    assert sorted(told.trained) == [("plain", 0), ("raw", 0), ("raw", 1), ("robust", 0)]
    assert len(seen) == 3
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


def test_defenses_with_more_recipes_have_surrogates_of_their_own(tmp_path):
    short = dataclasses.replace(RECIPE, name="short", epochs=1)
    own = Defense(name="own", step=plain_step, recipes={"toy": (short,)})
    told, seen = Told(), []
    bench(tmp_path, Offers(transfer("first", seen), RAW, own), told, attacks=["first"],
        defenses=["plain", "own"], limit=50)  # fmt: skip
    assert told.trained.count(("raw", 1)) == 2
    assert not all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_training_images_are_recorded_by_their_hash(tmp_path):
    def trains(model, x, y, threat, *, ctx):
        assert len(ctx.train_images(2)) == 40
        return x

    attack = Attack(name="trains", run=trains, threats=("linf",), needs=("train_images",))
    (record,) = bench(tmp_path, Offers(attack), attacks=["trains"], limit=50).records
    assert record["identity"]["supplies"] == {"train_images": toys.toy_part(n=160, seed=3).sha256}
    assert record["identity"]["knowledge"] == "static"


UNTRAINABLE = Defense(name="raw", step=broken_step)


def test_a_surrogate_that_cannot_be_trained_fails_its_own_cells_only(tmp_path):
    plugin = Offers(transfer("first"), UNTRAINABLE)
    found = bench(tmp_path, plugin, attacks=["first", "one_step"])
    assert [(f.attack, f.state) for f in found.failures] == [("first", "failed")]
    assert "this defense cannot be trained" in found.failures[0].reason
    assert spans(found, "one_step") == ALL_SPANS


def test_a_run_without_its_surrogate_goes_on_no_board(tmp_path):
    found = bench(tmp_path, Offers(transfer("first"), UNTRAINABLE), attacks=["first", "one_step"], limit=50)
    with pytest.raises(StoreError, match="incomplete"):
        board.build(tmp_path / "board", [found.run])


class Quantised(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(torch.round(4 * x) / 4)


def test_what_was_probed_before_any_attack_reaches_the_flags(tmp_path):
    plugin = Offers(Defense(name="rounded", step=plain_step, wrap=Quantised))
    found = bench(tmp_path, plugin, defenses=["rounded", "plain"], attacks=["one_step"])
    probes = {json.dumps(r["outcome"]["probes"]) for r in found.records if r["identity"]["defense"] == "rounded"}
    assert len(probes) == 1, "one network, the same numbers in every shard"
    flags = {row.defense: audit.flags(row) for row in rows(found.records)}
    assert flags == {
        "rounded": {
            "eps_floor": "steps at eps 1 100.0, chance 25.0",
            "zero_gradients": "100 % of images under cross-entropy, 100 % under margin; 100 % of all pixels",
        },
        "plain": {},
    }


def test_published_defects_and_details_are_recorded(tmp_path):
    def tells(model, x, y, threat, *, ctx):
        return Result(last=x, details={"example": torch.tensor(ctx.examples)})

    attack = Attack(name="tells", run=tells, threats=("linf",), as_published=True)
    found = bench(tmp_path, Offers(attack), attacks=["tells", "one_step"], batch_size=64)
    outcomes = {r["identity"]["start"]: r["outcome"] for r in found.records if r["identity"]["attack"] == "tells"}
    assert {outcome["flags"]["as_published"] for outcome in outcomes.values()} == {1}
    told = [example for start in sorted(outcomes) for example in outcomes[start]["details"]["example"]]
    assert sorted(told) == list(range(600)), "each image of the split, under its own index"
    assert all("details" not in r["outcome"] for r in found.records if r["identity"]["attack"] == "one_step")
