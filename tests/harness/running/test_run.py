"""The loop: records from nothing, resumed byte for byte, failures where they happened."""

import json
from pathlib import Path

import pytest

from harness.leaderboard.tables import wide
from harness.leaderboard.tidy import tidy
from harness.reporter import Reporter
from harness.results.rows import rows
from harness.running.outcome import Interrupted
from support.bench import bench_toy, report_of_run
from support.plugins import CHEATS, FAILURES, toy_registry


def files_of_results(folder: Path) -> dict[str, bytes]:
    kept = [p for p in folder.rglob("*") if p.is_file() and not {"attempts", "tmp"} & set(p.parts)]
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept if p.name != "environment.json"}


class StopAfter(Reporter):
    """Stops at the n-th call of one method."""

    def __init__(self, method: str, calls: int) -> None:
        self.left = calls
        setattr(self, method, self._count)

    def _count(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise Interrupted


def test_a_run_leaves_one_record_for_each_shard_of_each_cell(tmp_path):
    outcome = bench_toy(tmp_path)
    assert outcome.computed == len(outcome.records) == 3 * 3
    spans = sorted({(r["identity"]["start"], r["identity"]["stop"]) for r in outcome.records})
    assert spans == [(0, 250), (250, 500), (500, 600)]
    assert not outcome.failures


def test_the_same_command_again_computes_nothing(tmp_path):
    first, second = bench_toy(tmp_path), bench_toy(tmp_path)
    assert (second.computed, second.reused) == (0, first.computed)
    assert first.records == second.records


@pytest.mark.parametrize(
    ("method", "calls"), [("train_batch", 7), ("train_epoch", 2), ("shard_done", 1), ("shard_done", 5)]
)
def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path, method, calls):
    whole = tmp_path / "whole"
    bench_toy(whole)
    broken = tmp_path / "broken"
    stopped = bench_toy(broken, reporter=StopAfter(method, calls))
    assert stopped.interrupted
    finished = bench_toy(broken)
    assert not finished.interrupted
    assert files_of_results(broken) == files_of_results(whole)


def test_added_attacks_and_limited_runs_reuse_what_is_there(tmp_path):
    assert bench_toy(tmp_path, attacks=["one_step"]).computed == 3
    more = bench_toy(tmp_path, attacks=["one_step", "random_signs"])
    assert (more.computed, more.reused) == (3, 3)
    limited = bench_toy(tmp_path, attacks=["one_step"], limit=300)
    assert (limited.computed, limited.reused) == (1, 1)


def test_another_seed_or_batch_size_gives_other_or_the_same_records(tmp_path):
    first = bench_toy(tmp_path / "a", attacks=["one_step"])
    split = bench_toy(tmp_path / "b", attacks=["one_step"], batch_size=64)
    assert first.records == split.records
    other = bench_toy(tmp_path / "a", attacks=["one_step"], seed=1)
    assert other.computed == 3


def test_every_cheat_and_failure_is_a_state_and_the_rest_goes_on(tmp_path):
    names = [*CHEATS, *FAILURES, "claims_success", "one_step"]
    outcome = bench_toy(tmp_path, attacks=names, limit=100)
    states = {failure.attack: failure for failure in outcome.failures}
    assert set(states) == {*CHEATS, *FAILURES}
    for cheat, reason in CHEATS.items():
        assert states[cheat].state == "refused"
        assert reason in states[cheat].reason
    for attack, reason in FAILURES.items():
        assert states[attack].state == "failed"
        assert reason in states[attack].reason
    done = {record["identity"]["attack"] for record in outcome.records}
    assert done == {"claims_success", "one_step"}
    shown = {(f.defense, f.attack, f.threat): (f.state, f.reason) for f in outcome.failures}
    table, lines = wide(rows(outcome.records), shown), tidy(rows(outcome.records), shown)
    assert "false_claims" in table
    for name in (*CHEATS, *FAILURES):
        assert f"{name} on plain" in table
        assert f",{name}," in lines
    refused = list((outcome.run / "refused").iterdir())
    assert len(refused) == len(CHEATS)
    assert "modified the model (weights)" in json.dumps([json.loads(p.read_bytes()) for p in refused])
    traces = [json.loads(p.read_bytes()).get("trace", "") for p in (outcome.run / "attempts").iterdir()]
    assert any("this attack cannot run" in trace for trace in traces)


def test_failures_are_tried_again_by_the_same_command(tmp_path):
    first = bench_toy(tmp_path, attacks=["raises", "one_step"])
    second = bench_toy(tmp_path, attacks=["raises", "one_step"])
    assert len(first.failures) == len(second.failures) == 1
    assert second.computed == 0


def test_a_defense_that_cannot_be_trained_fails_its_own_cells_only(tmp_path):
    outcome = bench_toy(tmp_path, defenses=["untrainable", "plain"])
    assert {failure.defense for failure in outcome.failures} == {"untrainable"}
    assert "this defense cannot be trained" in outcome.failures[0].reason
    assert {record["identity"]["defense"] for record in outcome.records} == {"plain"}


def test_a_damaged_record_is_put_aside_and_computed_again(tmp_path):
    first = bench_toy(tmp_path, attacks=["one_step"])
    path = next((first.run / "records").rglob("*.json"))
    body = path.read_bytes()
    path.write_bytes(body.replace(b'"n":', b'"m":'))
    second = bench_toy(tmp_path, attacks=["one_step"])
    assert (second.computed, second.reused) == (1, 2)
    assert path.read_bytes() == body


def test_a_run_is_cut_to_the_first_images_of_one_fixed_order(tmp_path):
    full = bench_toy(tmp_path / "a", attacks=["one_step"])
    limited = bench_toy(tmp_path / "b", attacks=["one_step"], limit=0.5)
    (row,), (short,) = rows(full.records), rows(limited.records)
    assert len(short.clean) == 300
    assert row.clean.startswith(short.clean)


def test_a_defense_meets_the_attack_that_its_wrap_deploys(tmp_path):
    import torch

    from harness.api import Defense, hookimpl
    from support.plugins import plain_step

    class Constant(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x) * 0 + torch.tensor([0.0, 1.0, 0.0, 0.0])

    class Plugin:
        @hookimpl
        def harness_defenses(self):
            return [Defense(name="wrapped", step=plain_step, wrap=Constant)]

    outcome = bench_toy(tmp_path, defenses=["wrapped"], attacks=["unchanged"], registry=toy_registry(Plugin()))
    (row,) = rows(outcome.records)
    assert row.clean.count("1") == 150, "a constant answer is right for one class of four"


def test_a_refused_snapshot_leaves_its_siblings_whole_and_the_worst_case_partial(tmp_path):
    import torch

    from harness.api import Attack, Result, hookimpl

    def uneven(model, x, y, threat, *, ctx, steps):
        snapshots = {}
        for done in ctx.steps_wanted:
            ctx.reached(done)
            snapshots[done] = Result(last=x if done == 3 else torch.zeros_like(x))
        return Result(last=x, snapshots=snapshots)

    class Plugin:
        @hookimpl
        def harness_attacks(self):
            common = {"run": uneven, "threats": ("linf",), "prefix": "steps"}
            return [Attack(name=f"uneven-{steps}", params={"steps": steps}, **common) for steps in (2, 3)]

    names = ["uneven-2", "uneven-3", "one_step"]
    outcome = bench_toy(tmp_path, attacks=names, registry=toy_registry(Plugin()))
    assert [(f.attack, f.state) for f in outcome.failures] == [("uneven-2", "refused")]
    report = report_of_run(outcome)
    (row,), states = report.rows, report.states
    assert {cell.attack: cell.n for cell in row.cells.values()} == {"uneven-3": 600, "one_step": 600}
    assert "n=600 partial" in wide([row], states)
    assert ",partial," in tidy([row], states)


def test_a_defense_without_a_network_keeps_its_row_and_makes_the_run_incomplete(tmp_path):
    from harness.errors import StoreError
    from harness.leaderboard import board

    outcome = bench_toy(tmp_path, defenses=["plain", "untrainable"], attacks=["one_step"])
    report = report_of_run(outcome)
    found, states = report.rows, report.states
    assert {row.defense for row in found} == {"plain", "untrainable"}
    assert "| untrainable | tiny | toy | no number | **failed** | failed |" in wide(found, states)
    with pytest.raises(StoreError, match="no network for untrainable"):
        board.build(tmp_path / "board", [outcome.run])


def test_another_default_of_the_network_is_another_checkpoint_and_other_records(tmp_path):
    from harness.api import Architecture, hookimpl
    from harness.conformance import toys

    def registry(gain):
        class Plugin:
            @hookimpl
            def harness_architectures(self):
                build = lambda shape, classes, gain: toys.TinyNet(classes)  # noqa: E731
                return [Architecture(name="gained", build=build, params={"gain": gain})]

        return toy_registry(Plugin())

    first = bench_toy(tmp_path, arch="gained", attacks=["one_step"], registry=registry(1.0))
    second = bench_toy(tmp_path, arch="gained", attacks=["one_step"], registry=registry(4.0))
    assert (second.computed, second.reused) == (first.computed, 0)


def test_random_numbers_around_training_come_from_its_seed(tmp_path):
    import random

    import numpy as np
    import torch

    from harness.api import Defense, hookimpl
    from support.plugins import plain_step

    class Offset(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.offset = model, torch.nn.Parameter(torch.randn(4))

        def forward(self, x):
            return self.model(x) + self.offset

    def noisy_step(model, x, y, ctx):
        return plain_step(model, x, y, ctx) * (1 + 0.1 * np.random.rand() + 0.1 * random.random())

    class Plugin:
        @hookimpl
        def harness_defenses(self):
            return [Defense(name="noisy", step=noisy_step, wrap=Offset)]

    outcomes = []
    for place in ("a", "b"):
        torch.rand(3), np.random.rand(3), random.random()
        outcomes.append(
            bench_toy(tmp_path / place, defenses=["noisy"], attacks=["one_step"], registry=toy_registry(Plugin()))
        )
    assert outcomes[0].records == outcomes[1].records
    head = outcomes[0].records[0]["identity"]
    assert head["weights_sha256"] != head["deployed_sha256"]


def test_an_output_folder_that_cannot_be_written_is_found_before_training(tmp_path):
    from harness.errors import StoreError

    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write into"):
        bench_toy(tmp_path / "file" / "results", reporter=StopAfter("train_batch", 1))
