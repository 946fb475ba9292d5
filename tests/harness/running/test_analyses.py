"""Analyses from plan to board: stored, reused, shown, and an edited quantity found."""

import csv
import json

import numpy as np
import pytest
import torch

from harness.api import Analysis, Defense, NotApplicable, OneOf, Quantity, hookimpl
from harness.errors import BoardMismatch, NothingSelected, StoreError, UsageError
from harness.leaderboard import board
from harness.leaderboard.analyses import analyses_csv
from harness.leaderboard.tables import wide
from harness.results.rows import rows
from harness.storage import records
from harness.storage.runs import RunStore
from support.bench import bench_toy, plan_toy
from support.plugins import plain_step, toy_registry


def seen(ctx, *, scale, unit):
    """What an analysis is handed, as numbers."""
    x, y = ctx.images()
    with torch.no_grad():
        right = int((ctx.model(x).argmax(dim=1) == y).sum())
    return {
        "right": Quantity(right * scale, len(x), unit),
        "drawn": Quantity(float(torch.rand(()) + np.random.rand()), len(x)),
        "trains": Quantity(float(ctx.trainee().training and not ctx.network.training), 1),
        "steps": Quantity(float(ctx.step is not None), 1),
        "gain": Quantity(ctx.defense_params.get("gain"), 1),
        "nothing": Quantity(None, 0, "nats"),
    }


def wraps(ctx):
    return {"wrapped": Quantity(float(ctx.model is not ctx.network), 1)}


def not_finite(ctx):
    return {"value": Quantity(float("nan"), 1)}


def not_a_quantity(ctx):
    return {"value": 1.0}


def inapplicable(ctx):
    raise NotApplicable("it has no weights of its own")


def changes(ctx):
    with torch.no_grad():
        ctx.network.head.weight.add_(1)
    return {"value": Quantity(1.0, 1)}


class Analyses:
    def __init__(self, revision=1):
        self.revision = revision

    @hookimpl
    def harness_defenses(self):
        return [
            Defense(
                name="gained", params={"gain": 2.0}, step=lambda model, x, y, ctx, gain: plain_step(model, x, y, ctx),
                wrap=lambda network, gain: torch.nn.Sequential(network),
            )
        ]  # fmt: skip

    @hookimpl
    def harness_analyses(self):
        return [
            Analysis(
                name="seen", run=seen, params={"scale": 1, "unit": OneOf(("images", "px"))}, revision=self.revision
            ),
            Analysis(name="wraps", run=wraps, only_of=("gained",)),
            Analysis(name="apart", run=wraps, groups=()),
            *(
                Analysis(name=run.__name__, run=run, groups=())
                for run in (not_finite, not_a_quantity, inapplicable, changes)
            ),
        ]  # fmt: skip


REGISTRY = toy_registry(Analyses())


def planned(analyses, defenses=("plain",), attacks=("unchanged",), registry=REGISTRY, limit=40):
    return plan_toy(
        registry, defenses=list(defenses), attacks=list(attacks), analyses=list(analyses), limit=limit
    )  # fmt: skip


def bench(folder, analyses, registry=REGISTRY, **asked):
    return bench_toy(folder, registry, analyses=list(analyses), **{"attacks": ["unchanged"], "limit": 40, **asked})


def names(plan_):
    return [(planned.subject.defense, planned.analysis) for planned in plan_.analyses]


def test_names_groups_globs_and_parameters_as_everywhere():
    assert names(planned(["all"], ["plain", "gained"])) == [("plain", "seen"), ("gained", "seen"), ("gained", "wraps")]
    assert names(planned(["seen[scale=3]", "a*"])) == [("plain", "seen[scale=3]"), ("plain", "apart")]
    assert names(planned(["seen[scale=1]"])) == [("plain", "seen")]
    assert names(planned([])) == []
    with pytest.raises(UsageError, match="no parameter 'size'"):
        planned(["seen[size=3]"])
    with pytest.raises(UsageError, match="must be one of images, px"):
        planned(["seen[unit=kg]"])
    with pytest.raises(NothingSelected):
        planned(["wraps"], attacks=())
    assert names(planned(["seen"], attacks=())) == [("plain", "seen")], "an analysis needs no attack"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return bench(tmp_path_factory.mktemp("run"), ["all", "seen[scale=3]"], defenses=("plain", "gained"))


def quantities(found, defense, analysis):
    (record,) = [
        r for r in found.records
        if (r["identity"]["defense"], r["identity"].get("analysis")) == (defense, analysis)
    ]  # fmt: skip
    return record["outcome"]["quantities"]


def test_it_sees_what_is_deployed_and_how_it_was_trained(outcome):
    found = quantities(outcome, "plain", "seen")
    clean = next(r["outcome"]["clean"] for r in outcome.records if r["identity"]["defense"] == "plain" and
                 r["identity"]["kind"] == "cell")  # fmt: skip
    assert found["right"] == {"value": float(clean.count("1")), "n": 40, "unit": "images"}
    assert quantities(outcome, "plain", "seen[scale=3]")["right"]["value"] == 3 * clean.count("1")
    assert found["trains"]["value"] == found["steps"]["value"] == 1
    assert found["nothing"] == {"value": None, "n": 0, "unit": "nats"}
    assert quantities(outcome, "gained", "seen")["gain"]["value"] == 2.0
    assert quantities(outcome, "gained", "wraps")["wrapped"]["value"] == 1


def test_a_record_of_an_analysis_has_its_provenance_and_no_seconds(outcome):
    head = next(r["identity"] for r in outcome.records if r["identity"].get("analysis") == "seen[scale=3]")
    assert (head["kind"], head["n"], head["params"]) == ("analysis", 40, {"scale": 3, "unit": "images"})
    assert len(head["weights_sha256"]) == 64
    assert head["analysis_origin"] == "other0"
    (record,) = [r for r in outcome.records if r["identity"] == head]
    assert "seconds" not in json.dumps(record)
    attempts = [json.loads(p.read_bytes()) for p in (outcome.run / "attempts").glob(f"{record['key']}.*")]
    assert [attempt["outcome"] for attempt in attempts] == ["done"]
    assert attempts[0]["seconds"] > 0


def test_random_numbers_of_an_analysis_are_its_own(tmp_path, outcome):
    torch.manual_seed(5)
    torch.rand(9), np.random.rand(9)
    alone = bench(tmp_path, ["seen"])
    assert quantities(alone, "plain", "seen") == quantities(outcome, "plain", "seen")


def test_the_same_command_again_computes_nothing_and_another_revision_or_number_of_images_does(tmp_path):
    first = bench(tmp_path, ["seen"])
    again = bench(tmp_path, ["seen"])
    assert (first.computed, again.computed, again.reused) == (2, 0, 2)
    assert again.records == first.records
    assert bench(tmp_path, ["seen"], toy_registry(Analyses(revision=2))).computed == 1
    assert bench(tmp_path, ["seen"], limit=20).computed == 2
    assert bench(tmp_path, ["seen", "apart"]).computed == 1


@pytest.mark.parametrize(("analysis", "state", "reason"), [
    ("not_finite", "failed", "no finite Quantity"), ("not_a_quantity", "failed", "no finite Quantity"),
    ("inapplicable", "not applicable", "no weights of its own"), ("changes", "failed", "has changed (weights)"),
])  # fmt: skip
def test_what_goes_wrong_is_said_and_leaves_no_record(tmp_path, analysis, state, reason):
    found = bench(tmp_path, [analysis])
    (failure,) = found.failures
    assert (failure.attack, failure.state) == (f"analysis {analysis}", state)
    assert reason in failure.reason
    assert [r["identity"]["kind"] for r in found.records] == ["cell"]


def test_tables_show_every_quantity_with_its_n(outcome):
    found = rows(outcome.records)
    lines = list(csv.DictReader(analyses_csv(found).splitlines()))
    assert len(lines) == 3 * 6 + 1 + 6
    one = next(line for line in lines if (line["defense"], line["analysis"]) == ("plain", "seen[scale=3]"))
    assert set(one) >= {"weights_sha256", "data_sha256", "recipe", "train_seed", "quantity", "value", "unit", "n"}
    empty = next(line for line in lines if line["quantity"] == "nothing")
    assert (empty["value"], empty["n"]) == ("", "0")
    assert "## Analyses" in wide(found)
    assert "| gained | tiny | toy | 0 | wraps | wrapped | 1 |  | 1 |" in wide(found)


def test_the_highest_revision_then_the_most_images_count(tmp_path):
    few, many = bench(tmp_path / "a", ["seen"], limit=20), bench(tmp_path / "a", ["seen"], limit=40)
    newer = bench(tmp_path / "a", ["seen"], toy_registry(Analyses(revision=2)), limit=20)
    for order in ((few, many), (many, few)):
        (row,) = rows([r for found in order for r in found.records])
        assert row.analyses["seen"]["right"].n == 40
    (row,) = rows([r for found in (newer, many) for r in found.records])
    assert row.analyses["seen"]["right"].n == 20


def test_a_board_holds_analyses_and_checks_until_a_quantity_changes(tmp_path, outcome):
    place = tmp_path / "board"
    written = board.build(place, [outcome.run])
    assert place / "analyses.csv" in written
    assert board.check(place) == len(outcome.records)
    whole = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}

    def edited(name, old, new):
        text = whole[name].decode()
        assert old in text
        (place / name).write_text(text.replace(old, new, 1))
        with pytest.raises(BoardMismatch, match=r"analyses\.csv|table\.md"):
            board.check(place)
        (place / name).write_bytes(whole[name])

    edited("analyses.csv", "wraps,wrapped,1,", "wraps,wrapped,0,")
    edited("table.md", "| wraps | wrapped | 1 |", "| wraps | wrapped | 0 |")
    edited("records.jsonl", '"wrapped":{"n":1,"unit":"","value":1', '"wrapped":{"n":1,"unit":"","value":0')
    (place / "analyses.csv").unlink()
    with pytest.raises(BoardMismatch, match=r"analyses\.csv"):
        board.check(place)


def test_an_edited_quantity_in_a_run_is_put_aside_and_measured_again(tmp_path):
    first = bench(tmp_path, ["seen"], attacks=())
    (path,) = (first.run / "records").rglob("*.json")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"n":40', b'"n":41', 1))
    with pytest.raises(StoreError, match="checksum"):
        records.unseal(path.read_bytes(), str(path))
    again = bench(tmp_path, ["seen"], attacks=())
    assert (again.computed, path.read_bytes()) == (1, whole)


def test_a_record_that_lacks_a_part_of_a_quantity_is_no_record(outcome):
    good = next(r for r in outcome.records if r["identity"]["kind"] == "analysis")
    assert records.check(good, "here") == good
    for broken in (
        {},
        {"value": 1.0, "n": 1},
        {"value": "1", "n": 1, "unit": ""},
        {"value": 1.0, "n": 1.5, "unit": ""},
    ):
        with pytest.raises(StoreError, match="its n and its unit"):
            records.check({**good, "outcome": {"quantities": {"x": broken}}}, "here")
    with pytest.raises(StoreError, match="its n and its unit"):
        records.check({**good, "outcome": {"quantities": {}}}, "here")


def test_the_store_keeps_what_it_was_given(tmp_path, outcome):
    good = next(r for r in outcome.records if r["identity"]["kind"] == "analysis")
    store = RunStore(tmp_path, {"expected": [good["key"]]})
    store.open()
    store.commit(good)
    assert store.find(good["key"]) == good
    assert records.unseal(records.seal(good), "here") == good


def test_observers_see_records_of_analyses_too(tmp_path):
    kinds = []

    class Observer:
        @hookimpl
        def harness_record(self, record):
            kinds.append(record["identity"]["kind"])

    bench(tmp_path, ["seen"], toy_registry(Analyses(), Observer()))
    assert "analysis" in kinds
