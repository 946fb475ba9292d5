"""Witnesses: codes never leave the budget, what is kept breaks the network, and the first break is the one kept."""

import dataclasses
import os
import random
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.conformance import toys
from harness.data.dataset import LoadedDataset
from harness.errors import StoreError
from harness.evaluation.judge import Judge
from harness.evaluation.witnessing import coded
from harness.registry.hookspecs import hookimpl
from harness.reporter import Reporter
from harness.storage.run_folder import RunFolder
from harness.storage.runs import RunStore
from harness.storage.schema import network_of
from harness.types import Attack, Dataset, Defense, Result, ThreatKind, ThreatModel
from harness.witnesses.codec import Witness, Witnesses, decode, encode, from_bytes, parse, to_bytes
from harness.witnesses.coverage import breaks, broken, exempt, file_name
from harness.witnesses.store import WitnessStore
from support.attacks import Masked
from support.bench import bench_toy
from support.measure import REGISTRY, cell_of, evaluated
from support.plugins import plain_step, toy_registry
from support.records import record

THREAT = ThreatModel.parse("linf:1/20")
ATTACKS = ["every_second", "one_step", "random_signs"]
BUDGETS = [Fraction(8, 255), Fraction(3, 10), Fraction(1, 5), Fraction("0.031"), Fraction(1, 3), Fraction(1, 1000)]


def border_values(stream, n):
    """Values at the border of [0, 1], 8-bit levels and others, as images (n, 1, 1, 1)."""
    levels = stream.integers(0, 256, n).astype(np.float32) / np.float32(255)
    choice = stream.integers(0, 4, n)
    x = np.where(choice == 0, 0, np.where(choice == 1, 1, np.where(choice == 2, levels, stream.random(n))))
    return x.astype(np.float32).reshape(n, 1, 1, 1)


@pytest.mark.parametrize("eps", [*BUDGETS, *(Fraction(random.Random(i).random()) for i in range(6))])
def test_int8_codes_stay_in_the_budget_exactly(eps):
    """In rational arithmetic, without any tolerance, for images at the very border and anywhere inside."""
    stream = np.random.default_rng(int(eps * 1000))
    x = border_values(stream, 3000)
    share = np.where(stream.random(x.shape) < 0.4, np.sign(stream.normal(size=x.shape)), stream.uniform(-1, 1, x.shape))
    images = np.clip(x + np.float32(float(eps)) * share.astype(np.float32), 0, 1)
    threat = ThreatModel(kind="linf", eps=eps)
    codes = encode(x, images, threat)
    found = decode(x, codes, threat)
    assert (codes.dtype, found.dtype) == (np.int8, np.float32)
    budget = Fraction(float(eps))
    for before, after, image in zip(x.ravel(), found.ravel(), images.ravel(), strict=True):
        moved = abs(Fraction(float(after)) - Fraction(float(before)))
        assert moved <= budget
        assert 0 <= after <= 1
        assert abs(float(after) - float(image)) <= float(eps) / 254 + 1.2e-7
    assert (np.abs(codes) == 127).any()


def test_every_int8_code_that_encoding_can_give_stays_inside():
    codes = np.repeat(np.arange(-127, 128), 64).astype(np.int8).reshape(-1, 1, 1, 1)
    x = border_values(np.random.default_rng(1), len(codes))
    for eps in BUDGETS:
        found = decode(x, codes, ThreatModel(kind="linf", eps=eps))
        assert (np.abs(found.astype(np.float64) - x) <= float(eps)).all()
        # float32 rounds once: the change is the code's, to a unit in the last place, where the box does not cut.
        free = (found > 0) & (found < 1)
        wanted = codes.astype(np.float64) / 127 * float(eps)
        assert np.abs((found.astype(np.float64) - x) - wanted)[free].max() <= 2**-23


@pytest.mark.parametrize("kind", ["l2", "l1", "l0"])
def test_float16_differences_are_the_nearest_toward_x(kind):
    """Against a search in the table of all float16 numbers."""
    stream = np.random.default_rng(2)
    x = border_values(stream, 5000)
    scale = 10.0 ** stream.uniform(-9, 0, x.shape)
    images = np.clip(x + (stream.normal(size=x.shape) * scale).astype(np.float32), 0, 1).astype(np.float32)
    threat = ThreatModel(kind=kind, eps=Fraction(1))
    codes = encode(x, images, threat)
    assert codes.dtype == np.float16
    table = np.sort(np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64))
    change = images.astype(np.float64) - x
    toward = table[np.searchsorted(table, np.abs(change), side="right") - 1]
    assert (codes.astype(np.float64) == np.sign(change) * toward).all()
    found = decode(x, codes, threat).astype(np.float64)
    assert (np.abs(found - x) <= np.abs(change)).all()
    assert (np.sign(found - x) * np.sign(change) >= 0).all()


@pytest.mark.parametrize("kind", ["l2", "l1", "l0"])
def test_norms_of_coded_images_never_grow(kind):
    stream = torch.Generator().manual_seed(3)
    x = torch.rand(20, 1, 8, 8, generator=stream)
    images = (x + 0.3 * torch.randn(x.shape, generator=stream) * (torch.rand(x.shape, generator=stream) < 0.3)).clamp(
        0, 1
    )
    threat = ThreatModel(kind=kind, eps=Fraction(1))
    found = torch.from_numpy(decode(x.numpy(), encode(x.numpy(), images.numpy(), threat), threat))
    distance = REGISTRY.get(ThreatKind, kind).spec.distance
    assert (distance(x, found, None) <= distance(x, images, None)).all()
    assert torch.allclose(distance(x, found, None), distance(x, images, None), rtol=1e-3)


class Threshold(torch.nn.Module):
    """Answers 1 where the first pixel is above a level, very clearly on both sides."""

    def __init__(self, level, slope=1e6):
        super().__init__()
        self.level, self.slope = level, slope

    def forward(self, x):
        over = self.slope * (x[:, 0, 0, 0] - self.level)
        return torch.stack([-over, over, over - 5 * self.slope, over - 5 * self.slope], dim=1)


def test_the_image_itself_is_kept_where_its_code_does_not_break():
    """The decision lies between an image and what its code is read back as, for the first of two images."""
    x = torch.full((2, 1, 8, 8), 0.5)
    images = x.clone()
    images[0, 0, 0, 0] += 0.0301  # between two codes: read back, it is 0.52992
    images[1, 0, 0, 0] += 0.045
    back = decode(x.numpy(), encode(x.numpy(), images.numpy(), THREAT), THREAT)
    assert back[0, 0, 0, 0] < 0.53005 < float(images[0, 0, 0, 0])
    judge = Judge(Threshold(0.53005), 4, toys.SHAPE)
    y, kind = torch.zeros(2, dtype=torch.long), REGISTRY.get(ThreatKind, "linf").spec
    found = coded(judge, x, y, images, torch.ones(2, dtype=torch.bool), THREAT, kind)
    assert {row: code.dtype.name for row, code in found.items()} == {0: "float32", 1: "int8"}
    assert (found[0] == images[0].numpy()).all()


def test_what_breaks_by_a_rounding_error_only_is_not_kept():
    x = torch.full((1, 1, 8, 8), 0.5)
    images = x.clone()
    images[0, 0, 0, 0] += 0.03
    level = float(images[0, 0, 0, 0]) - 1e-7
    judge = Judge(Threshold(level, slope=1.0), 4, toys.SHAPE)
    y, kind = torch.zeros(1, dtype=torch.long), REGISTRY.get(ThreatKind, "linf").spec
    wanted = torch.ones(1, dtype=torch.bool)
    assert bool(judge.misclassified(images, y, 1))
    assert coded(judge, x, y, images, wanted, THREAT, kind) == {}


def test_a_masked_class_costs_no_witness():
    x = torch.full((2, 1, 8, 8), 0.5)
    images = x.clone()
    images[0, 0, 0, 0] += 0.03
    y, kind = torch.zeros(2, dtype=torch.long), REGISTRY.get(ThreatKind, "linf").spec
    found = [
        coded(Judge(model, classes, toys.SHAPE), x, y, images, torch.ones(2, dtype=torch.bool), THREAT, kind)
        for model, classes in ((Threshold(0.51), 4), (Masked(Threshold(0.51)), 5))
    ]
    assert [list(codes) for codes in found] == [[0], [0]], "and none for the image that is not broken"


def test_an_image_outside_the_threat_model_is_never_kept():
    x = torch.full((1, 1, 8, 8), 0.5)
    images = x + 0.05
    images[0, 0, 0, 0] = 0.9
    judge = Judge(Threshold(0.8), 4, toys.SHAPE)
    y, kind = torch.zeros(1, dtype=torch.long), REGISTRY.get(ThreatKind, "linf").spec
    assert coded(judge, x, y, images, torch.ones(1, dtype=torch.bool), THREAT, kind) == {}


def test_a_file_is_the_same_for_the_same_witnesses_and_every_changed_byte_is_noticed():
    stream = np.random.default_rng(4)
    codes = {i: stream.integers(-127, 128, (1, 2, 2)).astype(np.int8) for i in (7, 3, 11)}
    found = {i: Witness("pgd-10" if i > 3 else "fgsm", code) for i, code in codes.items()}
    found[5] = Witness("square", stream.random((1, 2, 2), dtype=np.float32))
    head = record()["identity"] | {"defense_origin": "d"}
    one = Witnesses(network=network_of(head), threat="linf:1/5", found=found)
    data = to_bytes(one)
    assert data == to_bytes(dataclasses.replace(one, found=dict(reversed(found.items()))))
    back = from_bytes(data, "here")
    assert (back.network, back.threat, list(back.found)) == (one.network, one.threat, [3, 5, 7, 11])
    for example, witness in found.items():
        assert back.found[example].attack == witness.attack
        assert back.found[example].code.dtype == witness.code.dtype
        assert (back.found[example].code == witness.code).all()
    for i in range(len(data)):
        with pytest.raises(StoreError, match="here"):
            from_bytes(data[:i] + bytes([data[i] ^ 4]) + data[i + 1 :], "here")
    with pytest.raises(StoreError, match="here"):
        from_bytes(data[:-1], "here")


def bench(folder, registry=None, reporter=None, batch_size=250, **kwargs):
    asked = {"attacks": ATTACKS, "threats": ["linf:1/5"], **kwargs}
    return bench_toy(folder, registry, reporter, batch_size=batch_size, **asked)


def witnesses_by_name(outcome):
    """name -> witnesses of a run."""
    files = sorted((outcome.run / "witnesses").glob("*.safetensors"))
    return {path.stem: from_bytes(path.read_bytes(), str(path)) for path in files}


def witness_and_record_files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.safetensors")} | {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.jsonl")
    }


def test_a_run_keeps_the_first_break_of_each_broken_example(tmp_path):
    """Against a count over its records, and a plain loop over the network."""
    outcome = bench(tmp_path)
    (witnesses,) = witnesses_by_name(outcome).values()
    first = {}
    for found in outcome.records:  # in the order of the run
        for example in broken(found) if found["identity"]["threat"] != "none" else ():
            first.setdefault(example, found["identity"]["attack"])
    assert set(first.values()) == {"every_second", "one_step"}
    assert {example: witness.attack for example, witness in witnesses.found.items()} == first
    part = LoadedDataset(toy_registry().get(Dataset, "toy").spec, "toy", Path()).part("test")
    network = toys.TinyNet()
    (weights,) = (tmp_path / "checkpoints").glob("plain-*/last.safetensors")
    from safetensors.torch import load_file

    network.load_state_dict(load_file(weights))
    network.eval()
    for example in first:
        x, y = part.batch(np.array([example]), torch.device("cpu"))
        image = torch.from_numpy(witnesses.images([example], x.numpy()))
        assert float((image.double() - x.double()).abs().max()) <= 0.2
        with torch.no_grad():
            assert int(network(image).argmax()) != int(y)
            assert int(network(x).argmax()) == int(y)


def test_records_are_the_same_with_and_without_witnesses(tmp_path, monkeypatch):
    with_them = bench(tmp_path / "a")
    monkeypatch.setattr("harness.evaluation.evaluate.coded", lambda *_: {})
    without = bench(tmp_path / "b")
    assert not witnesses_by_name(without)
    assert (with_them.run / "records.jsonl").read_bytes() == (without.run / "records.jsonl").read_bytes()


def test_nothing_new_broken_costs_no_forward():
    x, y = toys.images(n=32)
    spec = REGISTRY.get(Attack, "one_step").spec
    cell = cell_of(spec, THREAT)
    asked = {}
    for name, lacking in {"off": None, "none": np.zeros(32, bool), "all": np.ones(32, bool)}.items():
        judge = Judge(toys.tiny_net(), 4, toys.SHAPE)
        asked[name] = []
        judge.model.register_forward_pre_hook(lambda _, inputs, name=name: asked[name].append(len(inputs[0])))
        # A hook is a change of the model; it is part of what is compared from here on.
        judge = Judge(judge.model, 4, toys.SHAPE)
        asked[name].clear()
        found = evaluated(judge, toys.shard(x, y), spec, [cell], lacking=lacking)
        if name == "all":
            codes = found.codes[0]
    assert asked["none"] == asked["off"]
    assert sum(asked["all"]) == sum(asked["off"]) + len(codes)
    assert len(codes) > 5


def test_shorter_runs_of_one_attack_leave_only_what_the_longer_ones_break_first():
    def creeping(model, x, y, threat, *, ctx, steps):
        snapshots = {}
        for done in ctx.steps_wanted:
            ctx.reached(done)
            moved = x.clone()
            moved[: 4 * done, 0, 0, 0] += 0.05
            snapshots[done] = Result(last=moved)
        return Result(last=snapshots[max(ctx.steps_wanted)].last, snapshots=snapshots)

    x, y = torch.full((12, 1, 8, 8), 0.5), torch.zeros(12, dtype=torch.long)
    spec = Attack(name="creeping", run=creeping, threats=("linf",), prefix="steps", params={"steps": 2})
    cells = [cell_of(f"c{s}", THREAT, {"steps": s}) for s in (1, 2)]
    judge = Judge(Threshold(0.52), 4, toys.SHAPE)
    lacking = np.array([i != 2 for i in range(12)])
    # Each batch of 5 starts to creep anew.
    for batch, wanted in {250: [[0, 1, 3], [4, 5, 6, 7]], 5: [[0, 1, 3, 5, 6, 7, 8, 10, 11], [4, 9]]}.items():
        found = evaluated(judge, toys.shard(x, y), spec, cells, batch=batch, lacking=lacking)
        assert [sorted(codes) for codes in found.codes] == wanted


def test_an_example_that_is_wrong_when_clean_needs_no_witness():
    x, y = toys.images(n=32)
    spec = REGISTRY.get(Attack, "one_step").spec
    cell = cell_of(spec, THREAT)
    judge = Judge(toys.tiny_net(), 4, toys.SHAPE)
    found = evaluated(judge, toys.shard(x, y), spec, [cell], lacking=np.ones(32, bool))
    clean, any_ = found.results[0].clean, found.results[0].any
    assert "1" in [a for c, a in zip(clean, any_, strict=True) if c == "0"]
    assert set(found.codes[0]) == {i for i in range(32) if (clean[i], any_[i]) == ("1", "1")}


def test_a_refused_shard_leaves_no_witness(tmp_path):
    outcome = bench(tmp_path, attacks=["black", "out_of_ball"], limit=100)
    assert len(outcome.failures) == 2
    assert not list(outcome.run.glob("witnesses/**/*.safetensors"))


class Stop(Exception):
    pass


@pytest.mark.parametrize(("commits", "after"), [(1, True), (4, False), (5, True)])
def test_a_run_that_died_beside_a_record_goes_on_to_the_same_bytes(tmp_path, monkeypatch, commits, after):
    """Right before a record is published, or right after it."""
    bench(tmp_path / "whole", attacks=["every_second", "one_step"])
    real, left = RunStore.commit, [commits]

    def dies(self, value):
        left[0] -= 1
        if left[0] == 0 and not after:
            raise Stop
        real(self, value)
        if left[0] == 0:
            raise Stop

    monkeypatch.setattr(RunStore, "commit", dies)
    with pytest.raises(Stop):
        bench(tmp_path / "broken", attacks=["every_second", "one_step"])
    monkeypatch.setattr(RunStore, "commit", real)
    bench(tmp_path / "broken", attacks=["every_second", "one_step"])
    assert witness_and_record_files(tmp_path / "broken") == witness_and_record_files(tmp_path / "whole")
    assert any("witnesses" in name for name in witness_and_record_files(tmp_path / "whole"))


CHILD = """
import sys
from support.bench import bench_toy
bench_toy(sys.argv[1], attacks=["every_second", "one_step"], threats=["linf:1/5"], batch_size=7)
"""


def child(folder):
    path = str(Path(__file__).parents[2])
    return subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], env={**os.environ, "PYTHONPATH": path})


def wait_for(process, folder, pattern, count):
    while process.poll() is None and len(list(folder.glob(pattern))) < count:
        time.sleep(0.002)


@pytest.mark.slow
def test_kill_9_and_two_writers_leave_the_same_bytes(tmp_path):
    assert child(tmp_path / "whole").wait() == 0
    wanted = witness_and_record_files(tmp_path / "whole")
    killed = tmp_path / "killed"
    for pattern, count in (("*/witnesses/*/*.safetensors", 1), ("*/records/*/*.json", 4), ("*/records/*/*.json", 6)):
        process = child(killed)
        wait_for(process, killed, pattern, count)
        process.kill()
        process.wait()
    assert child(killed).wait() == 0
    assert witness_and_record_files(killed) == wanted
    both = [child(tmp_path / "both") for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert witness_and_record_files(tmp_path / "both") == wanted
    assert sum("witnesses" in name for name in wanted) > 2


def test_reused_records_bring_their_witnesses(tmp_path):
    first = bench(tmp_path, attacks=["every_second"])
    wider = bench(tmp_path, attacks=["every_second", "one_step"])
    assert wider.reused == 3
    (before,), (after,) = witnesses_by_name(first).values(), witnesses_by_name(wider).values()
    assert before.found.keys() < after.found.keys()
    for example, witness in before.found.items():
        assert after.found[example].attack == "every_second"
        assert (after.found[example].code == witness.code).all()
    alone = bench(tmp_path, attacks=["one_step"])
    assert (alone.computed, alone.reused) == (0, 3)
    (found,) = witnesses_by_name(alone).values()
    # Its record kept only what every_second had not broken; the others come from the siblings' files.
    assert set(found.found) == breaks(alone.records)[0].examples
    assert {witness.attack for witness in found.found.values()} == {"every_second", "one_step"}


class Warned(Reporter):
    def __init__(self):
        self.lines = []

    def warn(self, text):
        self.lines.append(text)


def test_records_without_witnesses_are_counted_and_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.evaluation.evaluate.coded", lambda *_: {})
    told = Warned()
    outcome = bench(tmp_path, reporter=told, attacks=["one_step"])
    number = len(breaks(outcome.records)[0].examples)
    assert [line for line in told.lines if f"0 of {number} broken examples have a witness" in line]
    monkeypatch.undo()
    told = Warned()
    bench(tmp_path, reporter=told, attacks=["one_step"])
    assert told.lines


def test_a_damaged_witness_file_is_named_and_stops_nothing(tmp_path):
    outcome = bench(tmp_path, attacks=["one_step"])
    part = sorted(outcome.run.glob("witnesses/*/*.safetensors"))[0]
    part.write_bytes(part.read_bytes()[:-1] + b"\x55")
    told = Warned()
    again = bench(tmp_path, reporter=told, attacks=["one_step"])
    assert again.records == outcome.records
    assert any(str(part) in line for line in told.lines)


def test_the_same_weights_with_other_parameters_are_another_subject():
    one, other = record()["identity"], record(defense_params={"step": 1.0})["identity"]
    assert one["weights_sha256"] == other["weights_sha256"]
    assert file_name(one, "linf:1/5") != file_name(other, "linf:1/5")


@pytest.mark.parametrize(
    ("threat", "passes", "random", "reason"),
    [
        ("linf:8/255", 1, False, ""),
        ("l0:5", 1, False, ""),
        ("flow:1/2", 1, False, "evidence"),
        ("wasserstein:1/4", 1, False, "evidence"),
        ("unbounded", 1, False, "no budget"),
        ("linf:8/255", 11, False, "majority of 11"),
        ("linf:8/255", 1, True, "random"),
    ],
)
def test_who_is_exempt_and_why(threat, passes, random, reason):
    assert reason in exempt(threat, passes, random)
    assert bool(reason) == bool(exempt(threat, passes, random))


class Noisy(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) + 0.05 * torch.randn(len(x), 4)


@pytest.mark.parametrize("declared", [True, False])
def test_random_defenses_keep_no_witnesses(tmp_path, declared):
    class Plugin:
        @hookimpl
        def harness_defenses(self):
            return [Defense(name="noisy", step=plain_step, wrap=Noisy, stochastic=declared, votes=3)]

    outcome = bench(tmp_path, toy_registry(Plugin()), defenses=["noisy"], attacks=["one_step"], limit=100)
    assert outcome.computed == 1
    (one,) = breaks(outcome.records)
    assert one.examples
    why = "each verdict is a majority of 3 random predictions" if declared else "its predictions are random"
    assert one.exempt == why
    assert not (outcome.run / "witnesses").exists()


def test_the_store_gives_every_example_one_witness(tmp_path):
    first, second = record("a", any_="0110"), record("b", any_="1111")
    store = WitnessStore(RunFolder(tmp_path / "run"))
    order = sorted(broken(record("c", any_="1111")))
    assert len(order) == 4
    codes = [np.full((1, 2, 2), i, np.int8) for i in range(4)]
    assert store.lacking(first["identity"], order).tolist() == [True] * 4
    here = sorted(broken(first))
    store.keep(first["key"], first["identity"], dict.fromkeys(here, codes[0]))
    assert store.lacking(second["identity"], order).tolist() == [example not in here for example in order]
    # Whatever a later record says of the same examples, the first stays.
    store.keep(second["key"], second["identity"], dict.fromkeys(order, codes[1]))
    assert store.merge([first, second]) == []
    (path,) = (tmp_path / "run" / "witnesses").glob("*.safetensors")
    found = parse(path.read_bytes(), "x").found
    assert {example: witness.attack for example, witness in found.items()} == {
        example: "a" if example in here else "b" for example in order
    }
