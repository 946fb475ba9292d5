"""harness verify: what holds passes, at any batch size and in a fresh process; every planted fault is named."""

import json
import os
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.errors import BoardMismatch, NothingSelected, StoreError, UsageError
from harness.leaderboard import artifacts, board
from harness.registry.discovery import load
from harness.registry.hookspecs import hookimpl
from harness.registry.registry import Loaded, Provider, Registry
from harness.storage.records import compact, read_compacted, seal, unseal
from harness.storage.run_folder import RunFolder
from harness.types import TRAINING_EPS, Attack, Defense, Result, ThreatKind
from harness.verification.rebuild import Rebuilder, rebuilt
from harness.verification.rescore import rescore
from harness.verification.sample import differences, recompute
from harness.verification.verify import verify
from harness.witnesses.codec import Witness, from_bytes, to_bytes
from harness.witnesses.coverage import breaks
from support.bench import bench_toy
from support.plugins import robust_step, toy_registry
from support.records import record_of
from support.training import CPU

ATTACKS = ["every_second", "one_step", "random_signs"]


class Dimmed(torch.nn.Module):
    """A deployed network whose parameter is not among its weights."""

    def __init__(self, network, share):
        super().__init__()
        self.network, self.share = network, share

    def forward(self, x):
        return self.network(x * (1 - self.share / 100))


class Extra:
    """A defense whose deployment depends on parameters, and a threat kind that needs evidence."""

    def __init__(self, revision=1):
        self.revision = revision

    @hookimpl
    def harness_defenses(self):
        return [
            Defense(
                name="dimmed", step=lambda *given, share: robust_step(*given),
                wrap=lambda network, share: Dimmed(network, float(Fraction(str(share)))),
                params={"share": TRAINING_EPS}, revision=self.revision,
            )
        ]  # fmt: skip

    @hookimpl
    def harness_threat_models(self):
        def verify(x, x_adv, eps, evidence=None):
            return (x_adv - x).abs().flatten(1).amax(dim=1) <= eps + 1e-6

        def distance(x, x_adv, evidence=None):
            return (x_adv - x).abs().flatten(1).amax(dim=1).double()

        return [ThreatKind(name="proved", distance=distance, verify=verify)]

    @hookimpl
    def harness_attacks(self):
        from support.plugins import one_step

        def looks(model, x, y, threat, *, ctx):
            """Steps away from the first training image, and tells something of every image."""
            other = ctx.train_images(0)[:1]
            moved = (x + float(threat.eps) * (x - other).sign()).clamp(0, 1)
            return Result(last=moved, any=moved, details={"seen": moved.flatten(1).mean(dim=1)})

        return [
            Attack(name="proving", run=one_step, threats=("proved",)),
            Attack(name="looks", run=looks, threats=("linf",), needs=("train_images",)),
        ]


def registry(revision=1):
    plain = toy_registry()
    extra = load(Provider("extra", "extra", "1.0"), lambda: Extra(revision))
    assert isinstance(extra, Loaded)
    return Registry([*plain.loaded, extra])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A finished run of two defenses, with its checkpoints."""
    folder = tmp_path_factory.mktemp("verify") / "results"
    asked = {"defenses": ["plain", "dimmed"], "attacks": [*ATTACKS, "proving", "looks"], "dataset": "toy", "limit": 300}
    threats = ["linf:1/5", "proved:1/5"]
    outcome = bench_toy(folder, registry(), **asked, threats=threats)
    assert not outcome.failures
    return outcome.run


@pytest.fixture
def damaged_run(results, tmp_path):
    """A copy of it, to be damaged."""
    shutil.copytree(results.parent, tmp_path / "results")
    return tmp_path / "results" / results.name


@pytest.fixture
def place(damaged_run, tmp_path):
    """A board with everything of the run."""
    board.build(tmp_path / "board", [damaged_run], True)
    return tmp_path / "board"


def judged(folder, batch=250, registry_=None):
    result = verify(folder)
    rescore(result, networks(result, registry_), batch)
    return result


def networks(result, registry_=None):
    return Rebuilder(result.weights, result.problems, registry_ or registry(), Path(), CPU)


def attacked_again(folder, number=99, seed=0, batch=250, registry_=None):
    """The lines that are told, and the problems."""
    result = verify(folder)
    assert result.problems == []
    lines = list(recompute(result, networks(result, registry_), number, seed, batch))
    return lines, result.problems


def edited(damaged_run, change, wanted=lambda head: head["attack"] == "one_step" and head["threat"] == "linf:1/5"):
    """Change the outcome of one record and seal it anew, so that it looks whole."""
    for file in sorted((damaged_run / "records").rglob("*.json")):
        record = unseal(file.read_bytes(), str(file))
        if wanted(record["identity"]):
            change(record["outcome"])
            file.write_bytes(seal(record))
            break
    paths = sorted((damaged_run / "records").rglob("*.json"))
    (damaged_run / "records.jsonl").write_bytes(compact([unseal(path.read_bytes(), str(path)) for path in paths]))
    return record["identity"]


def witness_file(folder, defense="plain"):
    (path,) = (folder / "witnesses").glob(f"{defense}-*.safetensors")
    return path


def rewritten(path, change):
    """Change the witnesses of a file and write it anew, so that it looks whole."""
    value = from_bytes(path.read_bytes(), str(path))
    change(value.found)
    path.write_bytes(to_bytes(value))


@pytest.mark.parametrize("batch", [1, 7, 250])
def test_a_run_is_verified_at_any_batch_size(damaged_run, batch):
    result = judged(damaged_run, batch)
    assert result.problems == []
    assert len(result.records) == 2 * 5 * 2
    broken = {
        (one.network["defense"], one.threat): len(one.examples)
        for one in breaks(read_compacted(damaged_run / "records.jsonl"))
    }
    assert set(broken) == {(d, t) for d in ("plain", "dimmed") for t in ("linf:1/5", "proved:1/5")}
    for row in result.rows:
        number = broken[row.breaks.network["defense"], row.breaks.threat]
        if row.breaks.threat == "linf:1/5":
            assert number > 20
            assert row.agree == len(row.witnesses.found) >= 0.99 * number
            assert f"{number} broken, {row.agree} with a witness" in str(row)
            assert f"{row.agree} agree" in str(row)
        else:
            assert row.witnesses is None
            assert "exempt from witnesses: its verifier needs evidence beside the image" in str(row)


def test_a_board_carries_its_witnesses_and_weights(place, damaged_run):
    """Nothing of the run is needed any more."""
    shutil.rmtree(damaged_run.parent)
    result = judged(place, 31)
    assert result.problems == []
    assert all(row.agree for row in result.rows if not row.breaks.exempt)
    assert len(list((place / "weights").iterdir())) == 2
    assert board.check(place) == 20
    manifest = json.loads((place / "evidence.json").read_bytes())
    assert manifest["left_out"] == {}
    import hashlib

    assert hashlib.sha256((place / "evidence.json").read_bytes()).hexdigest() in (place / "table.md").read_text()
    for name, stated in manifest["files"].items():
        assert stated["sha256"] == hashlib.sha256((place / name).read_bytes()).hexdigest()


def test_a_board_tells_where_its_runs_were_made(place, damaged_run):
    stamp = json.loads((damaged_run / "environment.json").read_bytes())
    machine = f"torch {stamp['torch']}, Python {stamp['python']}, {stamp['machine']}, {stamp['device']}"
    line = f"{machine}: runs {damaged_run.name}."
    assert f"Measured with harness {stamp['harness']}, {line}" in (place / "table.md").read_text()
    path = place / "environments.json"
    path.write_text(path.read_text().replace(stamp["torch"], "0.0"))
    with pytest.raises(BoardMismatch, match=r"torch 0\.0"):
        board.check(place)
    path.write_text("{}")
    with pytest.raises(BoardMismatch, match=r"environments\.json: damaged"):
        board.check(place)
    (damaged_run / "environment.json").write_text("[]")
    with pytest.raises(StoreError, match=r"environment\.json: damaged"):
        board.build(place.with_name("other"), [damaged_run])


def test_building_a_board_again_changes_no_byte(place, damaged_run):
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    board.build(place, [], True)
    board.build(place, [damaged_run], True)
    board.build(place)
    assert before == {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_one_changed_byte_of_a_witness_file_is_named(place, damaged_run):
    for folder in (place, damaged_run):
        path = witness_file(folder)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
        assert any(str(path) in line for line in verify(folder).problems), folder
    with pytest.raises(BoardMismatch, match=re.escape(str(witness_file(place)))):
        board.check(place)


def test_without_any_hash_the_example_that_disagrees_is_named(damaged_run):
    path = witness_file(damaged_run)
    victims = {}

    def moved(found):
        victims["clean"], victims["far"], victims["lost"], *_ = sorted(found)
        clean, far, lost = (found[victims[name]] for name in ("clean", "far", "lost"))
        found[victims["clean"]] = Witness(clean.attack, np.zeros_like(clean.code))
        found[victims["far"]] = Witness(far.attack, np.full(far.code.shape, 0.5, np.float32))
        found[victims["lost"]] = Witness(lost.attack, np.full(lost.code.shape, np.nan, np.float32))

    rewritten(path, moved)
    assert verify(damaged_run).problems == []
    problems = judged(damaged_run).problems
    assert sorted(problems) == sorted([
        f"{path}: example {victims['clean']} does not break plain",
        f"{path}: example {victims['far']} lies outside linf:1/5",
        f"{path}: example {victims['lost']} lies outside linf:1/5",
    ])  # fmt: skip


def test_an_image_moved_to_another_example_is_named(damaged_run):
    """The images, not the codes: those of one example lie outside the ball of another."""
    path = witness_file(damaged_run)
    value = from_bytes(path.read_bytes(), str(path))
    test = rebuilt(
        dict(value.network), artifacts.checkpoint(RunFolder(damaged_run), value.network), registry(), Path(), CPU
    ).test
    examples = sorted(value.found)[:2]
    x, _ = test.batch(np.array(examples), CPU)
    images = value.images(examples, x.numpy())

    def swapped(found):
        for example, image in zip(examples, images[::-1], strict=True):
            found[example] = Witness(found[example].attack, image.copy())

    rewritten(path, swapped)
    assert judged(damaged_run).problems == [f"{path}: example {e} lies outside linf:1/5" for e in examples]


def test_a_witness_of_an_example_that_no_record_calls_broken_is_named(damaged_run):
    path = witness_file(damaged_run)
    one = next(one for one in breaks(read_compacted(damaged_run / "records.jsonl")) if one.name == path.stem)
    other = next(example for example in range(600) if example not in one.examples)
    rewritten(path, lambda found: found.update({other: found[min(found)]}))
    assert verify(damaged_run).problems == [f"{path}: example {other} is not one that the records call broken"]


def test_too_few_witnesses_are_a_problem(damaged_run):
    path = witness_file(damaged_run)
    rewritten(path, lambda found: [found.pop(example) for example in sorted(found)[:3]])
    assert [line for line in verify(damaged_run).problems if "99 % are wanted" in line and "plain" in line]
    path.unlink()
    assert [line for line in verify(damaged_run).problems if re.search(r"plain.*: 0 of \d+ broken examples", line)]


def test_witnesses_of_another_subject_are_refused(damaged_run):
    shutil.copy(witness_file(damaged_run, "dimmed"), witness_file(damaged_run))
    assert any("another network or threat model" in line for line in verify(damaged_run).problems)
    extra = witness_file(damaged_run).with_name("nobody-000000000000-linf-1-5.safetensors")
    shutil.copy(witness_file(damaged_run, "dimmed"), extra)
    assert any(str(extra) in line for line in verify(damaged_run).problems)


def test_damaged_missing_and_edited_records_of_a_run_are_named(damaged_run):
    first, second, third = sorted((damaged_run / "records").rglob("*.json"))[:3]
    damaged = bytearray(first.read_bytes())
    damaged[100] ^= 1
    first.write_bytes(bytes(damaged))
    second.write_bytes(third.read_bytes())
    third.unlink()
    text = "\n".join(verify(damaged_run).problems)
    assert f"{first}: damaged" in text
    assert f"{second}: holds the record of another key" in text
    assert "1 of 20 records are missing" in text
    assert "not the compacted records" in text


def test_an_edited_record_with_a_new_checksum_leaves_its_witnesses_behind(damaged_run):
    """The break is taken out of the records of one attack after another; the witness that stays gives it away."""
    path = witness_file(damaged_run)
    value = from_bytes(path.read_bytes(), str(path))
    for file in sorted((damaged_run / "records").rglob("*.json")):
        record = unseal(file.read_bytes(), str(file))
        if record["identity"]["defense"] == "plain" and record["identity"]["threat"] == "linf:1/5":
            record["outcome"]["any"] = "0" * record["outcome"]["n"]
            file.write_bytes(seal(record))
    problems = verify(damaged_run).problems
    assert len([line for line in problems if str(path) in line]) == len(value.found)


def test_a_board_whose_table_or_record_changes_fails(place):
    table = (place / "table.md").read_text()
    (place / "table.md").write_text(table.replace("plain", "plane", 1))
    assert any("table.md" in line for line in verify(place).problems)
    (place / "table.md").write_text(table)
    assert verify(place).problems == []
    lines = (place / "records.jsonl").read_text().replace('"seed":0', '"seed":1', 1)
    (place / "records.jsonl").write_text(lines)
    assert any("its key is not that of its identity" in line for line in verify(place).problems)


def test_files_beside_the_manifest_are_named(place):
    (place / "weights" / "extra.safetensors").write_bytes(b"x")
    with pytest.raises(BoardMismatch, match=r"extra\.safetensors is not named"):
        board.check(place)
    (place / "weights" / "extra.safetensors").unlink()
    witness_file(place).unlink()
    with pytest.raises(BoardMismatch, match="is missing"):
        board.check(place)
    board_again = artifacts.MANIFEST
    (place / board_again).write_text("{}")
    with pytest.raises(BoardMismatch, match=r"evidence\.json: damaged"):
        board.check(place)


def test_other_weights_are_named(place):
    one, other = sorted((place / "weights").iterdir())
    shutil.copy(one, other)
    problems = judged(place).problems
    assert any(f"weights {other}: weights_sha256 is" in line for line in problems)


def test_what_is_too_large_is_left_out_and_the_board_says_so(place, damaged_run, monkeypatch):
    size = witness_file(place).stat().st_size
    monkeypatch.setattr(artifacts, "SMALL", size - 1)
    board.build(place, [damaged_run], True)
    assert not list((place / "witnesses").glob("plain-*"))
    assert f"{size} bytes, more than {size - 1}" in (place / "table.md").read_text()
    assert board.check(place) == 20
    result = judged(place)
    assert result.problems == []
    (row,) = (row for row in result.rows if row.breaks.network["defense"] == "plain" and not row.breaks.exempt)
    assert str(row).endswith("0 with a witness (0.0 %), not kept here")


def test_without_its_weights_a_board_is_exempt_from_judging_again_and_says_so(damaged_run, tmp_path):
    shutil.rmtree(damaged_run.parent / "checkpoints")
    place = tmp_path / "board"
    board.build(place, [damaged_run], True)
    assert "not beside the runs" in (place / "table.md").read_text()
    result = judged(place)
    assert result.problems == []
    rows = [str(row) for row in result.rows if not row.breaks.exempt]
    assert all("with a witness (100.0 %), not judged again: the weights" in row for row in rows)


def test_a_network_of_another_revision_is_not_taken_for_the_one_of_the_records(place):
    problems = judged(place, registry_=registry(revision=2)).problems
    assert len(problems) == 1
    assert "defense 'dimmed' is revision 2 of extra here, records say revision 1" in problems[0]


def test_a_missing_plugin_is_a_problem_where_the_weights_are_there(place):
    problems = judged(place, registry_=toy_registry()).problems
    assert len(problems) == 1
    assert "unknown defense 'dimmed'" in problems[0]


def test_other_images_of_a_dataset_are_noticed(place, monkeypatch):
    from support.plugins import SIZES

    monkeypatch.setitem(SIZES, "test", (600, 99))
    problems = judged(place).problems
    assert len(problems) == 2
    assert all("not those of the records" in line for line in problems)


def test_a_parameter_that_only_deployment_sees_is_rebuilt(place):
    """The weights alone do not say it: it comes from the records."""
    path = witness_file(place, "dimmed")
    subject = dict(from_bytes(path.read_bytes(), str(path)).network)
    assert subject["defense_params"] == {"share": "1/20"}
    weights = place / artifacts.weights_file(subject)
    assert rebuilt(subject, weights, registry(), Path(), CPU).judge.model.share == 0.05
    with pytest.raises(BoardMismatch, match="deployed_sha256"):
        rebuilt({**subject, "deployed_sha256": "0" * 64}, weights, registry(), Path(), CPU)


def test_one_training_is_kept_once_and_found_by_each_defense_that_deploys_it(tmp_path):
    asked = {"defenses": ["dimmed", "dimmed[share=1/10]"], "attacks": ["one_step"], "dataset": "toy", "limit": 300}
    outcome = bench_toy(tmp_path / "results", registry(), **asked, threats=["linf:1/5"])
    place = tmp_path / "board"
    for runs in ([outcome.run], []):  # With the run beside it, and from what the board has alone.
        board.build(place, runs, True)
        assert len(list((place / "weights").iterdir())) == 1
        result = judged(place)
        assert result.problems == []
        assert [row.agree for row in result.rows] == [len(row.breaks.examples) for row in result.rows]
        assert len(result.rows) == 2
        assert result.judged > 0


@pytest.mark.parametrize("batch", [7, 250])
def test_every_shard_attacked_again_gives_its_record(damaged_run, place, batch):
    for folder in (damaged_run, place):
        lines, problems = attacked_again(folder, batch=batch)
        assert problems == []
        assert lines[0] == "20 of 20 shards that can be attacked again, drawn by seed 0; 0 cannot"
        assert len(lines) == 21
        assert all(line.endswith(": as recorded") for line in lines[1:])


def test_a_sample_is_the_same_for_the_same_seed_only(damaged_run):
    first, again, other = (attacked_again(damaged_run, 5, seed)[0] for seed in (1, 1, 2))
    assert first == again
    assert len(first) == len(set(first)) == 6
    assert first != other


def flipped(name, number):
    def change(outcome):
        bits = outcome[name]
        outcome[name] = "".join("10"[int(bit)] for bit in bits[:number]) + bits[number:]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (flipped("clean", 2), "'clean' differs on 2 of 250 images"),
        (flipped("raw", 2), "'raw' differs on 2 of 250 images"),
        (flipped("last", 2), "'last' differs on 2 of 250 images"),
        (flipped("any", 2), "'any' differs on 2 of 250 images"),
        (lambda outcome: outcome.update(forwards=outcome["forwards"] * 2), "250 forwards, not 500"),
        (lambda outcome: outcome.update(backwards=1), "250 backwards, not 1"),
        (lambda outcome: outcome["flags"].update(as_published=1), "as_published is 0, not 1"),
        (lambda outcome: outcome["flags"].update(false_claims=9), "false_claims is 0, not 9"),
        (lambda outcome: outcome["probes"].update({min(outcome["probes"]): 7.0}), ", not 7"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_edited_record_is_found_when_it_is_drawn(damaged_run, change, words):
    head = edited(damaged_run, change)
    result = verify(damaged_run)
    lines = list(recompute(result, networks(result), 99, 0, 250))
    (problem,) = [line for line in result.problems if "one_step" in line]
    assert problem.startswith(f"{head['defense']} <- one_step (linf:1/5), images {head['start']} to {head['stop']}: ")
    assert words in problem
    assert problem in lines


def test_what_rounding_may_do_is_told_and_no_problem(damaged_run):
    edited(damaged_run, flipped("raw", 1))
    result = verify(damaged_run)
    lines = list(recompute(result, networks(result), 99, 0, 250))
    assert not [line for line in result.problems if "one_step" in line]
    assert len([line for line in lines if line.endswith(": as recorded, but for rounding")]) == 1


def test_distances_and_details_count_image_by_image():
    outcome = {
        **dict.fromkeys(("clean", "raw", "last", "any"), "1" * 100), "n": 100, "forwards": 100, "backwards": 0,
        "flags": {}, "probes": {}, "distances": [0.5] * 100, "details": {"flow": [2.0] * 100},
    }  # fmt: skip
    assert differences(outcome, outcome) == []
    nearer = {**outcome, "distances": [0.4] * 3 + [0.501] * 97}
    assert differences(outcome, nearer) == ["'distances' differs on 3 of 100 images"]
    assert differences(outcome, {**nearer, "distances": [0.4] * 2 + [0.501] * 98}) == []
    assert differences(outcome, {**outcome, "details": {}}) == ["'flow' differs on 100 of 100 images"]
    assert differences({**outcome, "details": {}}, outcome) == ["'flow' differs on 100 of 100 images"]


def changed(result, wanted="one_step", **identity):
    """Give the records of an attack another identity, and the key that goes with it."""
    for i, one in enumerate(result.records):
        if one["identity"]["attack"] == wanted:
            result.records[i] = record_of({**one["identity"], **identity}, one["outcome"])
    return result


def test_what_cannot_be_attacked_again_is_counted(damaged_run):
    def first_line(result):
        return next(recompute(result, networks(result), 99, 0, 250))

    assert first_line(changed(verify(damaged_run), passes=11)).startswith("16 of 16 shards")
    assert first_line(changed(verify(damaged_run), supplies={"surrogate": "5" * 64})).endswith("; 4 cannot")
    shutil.rmtree(next((damaged_run.parent / "checkpoints").glob("plain-*")))
    lines, problems = attacked_again(damaged_run)
    assert lines[0] == "10 of 10 shards that can be attacked again, drawn by seed 0; 10 cannot"
    assert problems == []
    shutil.rmtree(damaged_run.parent / "checkpoints")
    with pytest.raises(NothingSelected, match="none of the 20 shards"):
        attacked_again(damaged_run)


@pytest.mark.parametrize(
    "identity",
    [
        {"knowledge": "adaptive"}, {"gated": True}, {"mandatory": ["zzz"]}, {"ranked": False}, {"minimal": True},
        {"precision": "bfloat16"}, {"judge": 99}, {"attack_revision": 9}, {"attack_origin": "elsewhere"},
        {"params": {"steps": 3}}, {"split_size": 7}, {"on": "base"}, {"supplies": {"train_images": "5" * 64}},
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_forged_identity_is_named(damaged_run, identity):
    result = changed(verify(damaged_run), **identity)
    list(recompute(result, networks(result), 99, 0, 250))
    ((name, value),) = identity.items()
    problems = [line for line in result.problems if f": {name} is " in line or name == "split_size"]
    assert len(problems) == len(result.problems) >= 2
    assert all(f"{value} in the record" in line or name == "split_size" for line in problems)


def test_other_training_images_are_named(damaged_run):
    result = changed(verify(damaged_run), "looks", supplies={"train_images": "5" * 64})
    list(recompute(result, networks(result), 99, 0, 250))
    assert len(result.problems) == 4
    assert all("looks" in line and ": supplies is {'train_images': " in line for line in result.problems)


def test_an_attack_that_is_gone_is_a_problem(damaged_run, monkeypatch):
    wanted = registry()
    there = type(wanted).entry

    def entry(self, kind, name):
        if (kind, name) == (Attack, "one_step"):
            raise UsageError("unknown attack 'one_step'")
        return there(self, kind, name)

    monkeypatch.setattr(type(wanted), "entry", entry)
    _, problems = attacked_again(damaged_run, registry_=wanted)
    assert len(problems) == 4
    assert all("one_step" in line and "UsageError: unknown attack" in line for line in problems)


def test_what_is_neither_run_nor_board_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="neither a run nor a board"):
        verify(tmp_path)


def test_checking_a_board_with_evidence_imports_no_torch_and_needs_no_data(place):
    code = (
        "import sys; sys.argv = ['harness', 'leaderboard', 'check', sys.argv[1]];"
        "import atexit; atexit.register(lambda: print('TORCH', 'torch' in sys.modules));"
        "from harness.cli.main import run; run()"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(place)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "TORCH False" in ran.stdout


@pytest.mark.slow
def test_digits_in_fresh_processes_at_another_batch_size(cli):
    """The command line from training to a board that is verified, and each exit code."""
    attacks = "fgsm,pgd-10,pgd-20,deepfool,ddn,sta_b,gaussian"
    ran = cli.run("bench", "-d", "raw", "-a", attacks, "--limit", "120", "-o", "out", "--progress", "none")
    assert ran.returncode == 0, ran.stderr
    (damaged_run,) = (path.parent for path in (cli.folder / "out").glob("*/run.json"))
    ran = cli.run("verify", str(damaged_run), "--rescore", "--batch-size", "7")
    assert ran.returncode == 0, ran.stderr
    counts = re.findall(r"(\d+) broken, (\d+) with a witness \([\d.]+ %\), (\d+) agree", ran.stdout)
    assert len(counts) == 2
    for broken, kept, agree in counts:
        assert int(agree) == int(kept) >= 0.99 * int(broken) > 0
    assert ran.stdout.count("exempt from witnesses") == 2
    ran = cli.run("verify", str(damaged_run), "--sample", "3", "--seed", "5", "--batch-size", "50")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("3 of 7 shards that can be attacked again, drawn by seed 5; 0 cannot\n")
    assert ran.stdout.count(": as recorded") == 3
    ran = cli.run("leaderboard", "build", "board", "--add", str(damaged_run), "--evidence")
    assert ran.returncode == 0, ran.stderr
    shutil.move(damaged_run.parent, cli.folder / "elsewhere")
    ran = cli.run("verify", "board", "--rescore", "--batch-size", "33")
    assert ran.returncode == 0, ran.stderr
    path = sorted((cli.folder / "board" / "witnesses").iterdir())[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    for command in (["verify", "board"], ["verify", "board", "--rescore"], ["leaderboard", "check", "board"]):
        ran = cli.run(*command)
        assert ran.returncode == 4
        assert os.path.join("board", "witnesses", path.name) in ran.stderr  # noqa: PTH118
    assert cli.run("verify", "absent").returncode == 1
