"""Runs on disk: what counts as done, what is reused, what is put aside, and what survives a kill."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys

import pytest

from harness.errors import StoreError
from harness.storage import atomic, records
from harness.storage.run_folder import RunFolder
from harness.storage.runs import RunStore
from support import store as toy_store
from support.store import DOCUMENT, make, race

LATER = 2.0**40


def files_like(run, pattern):
    return sorted(path for path in run.rglob(pattern) if path.is_file())


@pytest.fixture
def store(tmp_path):
    made = RunStore(tmp_path / "results", DOCUMENT)
    made.open()
    return made


@pytest.fixture
def sibling(tmp_path):
    made = RunStore(tmp_path / "results", {**DOCUMENT, "seed": 1})
    made.open()
    return made


def record_file(run, key):
    return run.path / "records" / key[:2] / f"{key}.json"


# plan and folder


def test_the_run_id_depends_on_the_document_and_on_nothing_else(tmp_path):
    ids = [RunStore(tmp_path, {**DOCUMENT, "seed": seed}).run_id for seed in range(50)]
    assert len(set(ids)) == 50
    assert all(len(run_id) == 16 and set(run_id) <= set("0123456789abcdef") for run_id in ids)
    reordered = dict(reversed(list({**DOCUMENT, "seed": 0}.items())))
    assert RunStore(tmp_path / "elsewhere", reordered).run_id == ids[0]


def test_opening_writes_the_plan_and_sweeps_what_is_stale(store):
    assert json.loads((store.path / "run.json").read_bytes()) == DOCUMENT
    assert store.folder.promised() == (DOCUMENT, ["k1", "k2"])
    stale, fresh = store.path / "tmp" / "stale.tmp", store.path / "tmp" / "fresh.tmp"
    stale.parent.mkdir(exist_ok=True)
    for path in (stale, fresh):
        path.write_bytes(b"x")
    os.utime(stale, (1, 1))
    store.open()
    assert not stale.exists()
    assert fresh.exists()


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"{}", b'{"seed":0}'])
def test_a_folder_that_is_no_run_is_refused_by_name(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(StoreError, match="is no run folder of the harness") as caught:
        RunFolder(tmp_path).promised()
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", [b"[]", b"null", b'"text"', b'{"expected":null}'])
def test_a_run_file_that_holds_something_else_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(StoreError, match="is no run folder of the harness"):
        RunFolder(tmp_path).promised()


# records


def test_what_is_committed_is_found_and_nothing_else(store):
    values = [make(i) for i in range(5)]
    for value in values[:3]:
        store.commit(value)
    assert [store.find(value["key"]) for value in values] == [*values[:3], None, None]
    keys = [value["key"] for value in values]
    assert list(store.records(reversed(keys))) == values[:3][::-1]
    assert list(store.records(keys[3:])) == []
    assert record_file(store, keys[0]).read_bytes() == records.seal(values[0])
    assert store.damaged == []


def test_committing_again_changes_nothing_and_another_outcome_is_refused(store):
    store.commit(make(1))
    store.commit(make(1))
    with pytest.raises(StoreError, match="other content"):
        store.commit(make(1, bits="1011"))
    assert store.find(make(1)["key"]) == make(1)
    assert files_like(store.path, "*.tmp") == []


def test_compacting_writes_the_finished_records_sorted(store):
    values = [make(i) for i in range(7)]
    for value in values:
        store.commit(value)
    wanted = [value["key"] for value in values[1:]]
    found = store.compact([*wanted, "0" * 64])
    assert found == values[1:]
    lines = (store.path / "records.jsonl").read_bytes().splitlines()
    assert [json.loads(line) for line in lines] == sorted(values[1:], key=lambda value: value["key"])
    assert records.read_compacted(store.path / "records.jsonl") == [json.loads(line) for line in lines]


def test_logs_are_kept_beside_the_records_and_never_count_as_one(store):
    key = make(1)["key"]
    store.attempt(key, {"seconds": 1.5})
    store.attempt(key, {"seconds": 2.5})
    store.refuse(key, {"reasons": {"outside linf:8/255": 3}})
    store.note_environment({"host": "here"})
    assert [
        json.loads(path.read_bytes())["seconds"] for path in files_like(store.path / "attempts", f"{key}.*.json")
    ] in (
        [1.5, 2.5],
        [2.5, 1.5],
    )
    (refused,) = files_like(store.path / "refused", f"{key}.*.json")
    assert json.loads(refused.read_bytes()) == {"reasons": {"outside linf:8/255": 3}}
    assert json.loads((store.path / "environment.json").read_bytes()) == {"host": "here"}
    assert store.find(key) is None
    assert store.compact([key]) == []


# reuse and damage


def test_a_record_of_a_sibling_run_is_copied(store, sibling):
    value = make(1)
    sibling.commit(value)
    assert store.find(value["key"]) == value
    assert record_file(store, value["key"]).read_bytes() == records.seal(value)
    assert list(store.records([value["key"]])) == [value]
    shutil.rmtree(sibling.path)
    assert store.find(value["key"]) == value
    assert store.damaged == []


def test_records_of_other_keys_are_not_taken_from_a_sibling(store, sibling):
    sibling.commit(make(1))
    assert store.find(make(2)["key"]) is None


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: b"", lambda d: d.replace(b'"raw":"1', b'"raw":"0')])
def test_a_damaged_record_is_put_aside_and_counts_as_missing(store, damage):
    value = make(1)
    store.commit(value)
    path = record_file(store, value["key"])
    broken = damage(path.read_bytes())
    path.write_bytes(broken)
    with pytest.raises(StoreError, match="damaged"):
        list(store.records([value["key"]]))
    assert store.find(value["key"]) is None
    (line,) = store.damaged
    assert str(path) in line
    assert not path.exists()
    (aside,) = files_like(store.path / "refused", "*.damaged")
    assert aside.name.startswith(value["key"])
    assert aside.read_bytes() == broken
    store.commit(value)
    assert store.find(value["key"]) == value
    assert aside.read_bytes() == broken


def test_a_damaged_record_is_taken_from_a_sibling_that_has_it(store, sibling):
    value = make(1)
    for run in (store, sibling):
        run.commit(value)
    record_file(store, value["key"]).write_bytes(b"broken")
    assert store.find(value["key"]) == value
    assert record_file(store, value["key"]).read_bytes() == records.seal(value)
    assert len(store.damaged) == len(files_like(store.path / "refused", "*.damaged")) == 1


def test_a_damaged_sibling_is_left_alone(store, sibling):
    value = make(1)
    sibling.commit(value)
    path = record_file(sibling, value["key"])
    path.write_bytes(b"broken")
    assert store.find(value["key"]) is None
    assert path.read_bytes() == b"broken"
    assert not record_file(store, value["key"]).exists()
    assert files_like(store.results, "*.damaged") == []
    assert [str(path) in line for line in store.damaged] == [True]


@pytest.mark.parametrize("where", ["own", "sibling"])
def test_a_whole_record_under_the_name_of_another_is_not_taken_for_it(store, sibling, where):
    path = record_file(store if where == "own" else sibling, make(1)["key"])
    path.parent.mkdir(parents=True)
    path.write_bytes(records.seal(make(2)))
    assert store.find(make(1)["key"]) is None


@pytest.mark.parametrize("committed_again", [False, True])
def test_a_damaged_record_that_another_process_dealt_with_meanwhile(store, monkeypatch, committed_again):
    value = make(1)
    path = record_file(store, value["key"])
    path.parent.mkdir(parents=True)
    path.write_bytes(b"broken")
    whole = records.unseal

    def slow(data, origin):
        path.unlink(missing_ok=True)
        if committed_again:
            RunStore(store.results, DOCUMENT).commit(value)
        return whole(data, origin)

    monkeypatch.setattr("harness.storage.runs.unseal", slow)
    store.find(value["key"])
    assert path.exists() == committed_again


# many writers


def test_writers_that_race_for_the_same_records(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    barrier, published = spawn.Barrier(8), spawn.Array("i", 8, lock=False)
    writers = [spawn.Process(target=race, args=(tmp_path, barrier, published, i)) for i in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 8
    assert sum(published) == 40, "each record is published by exactly one of them"
    store = RunStore(tmp_path, DOCUMENT)
    assert list(store.records(make(i)["key"] for i in range(40))) == [make(i) for i in range(40)]
    assert len(files_like(store.path, "*.json")) == 40
    assert [path for path in files_like(tmp_path, "*") if path.suffix != ".json"] == []
    assert all(path.stat().st_nlink == 1 for path in files_like(store.path, "*.json"))


# kill -9


def test_whatever_is_killed_when_no_confirmed_record_is_lost(tmp_path):
    moments = random.Random(7)
    confirmed = []
    for _ in range(5):
        with subprocess.Popen([sys.executable, toy_store.__file__, str(tmp_path)], stdout=subprocess.PIPE) as child:
            heard = [child.stdout.readline() for _ in range(moments.randint(1, 40))]
            for _ in range(moments.randint(0, 20_000)):
                pass  # anywhere in the middle of the next ones
            child.send_signal(signal.SIGKILL)
            heard += child.stdout.readlines()
        assert child.returncode == -signal.SIGKILL
        confirmed += [int(line) for line in heard if line.endswith(b"\n")]
    store = RunStore(tmp_path, DOCUMENT)
    assert len(confirmed) > 20
    assert len(set(confirmed)) == len(confirmed), "what was confirmed is found by the next process"
    assert [store.find(make(i)["key"]) for i in confirmed] == [make(i) for i in confirmed]
    assert store.damaged == []
    visible = files_like(store.path / "records", "*")
    assert all(records.unseal(path.read_bytes(), str(path))["key"] == path.stem for path in visible)
    assert len(visible) - len(confirmed) in range(6), "one more for each kill, published but not yet confirmed"
    atomic.sweep(store.path / "tmp", LATER)
    assert files_like(store.path / "tmp", "*") == []


def test_what_networks_answered_is_kept_beside_the_plan_and_does_not_name_the_run(tmp_path):
    answers = {"net.build": {"network": "ab", "device": "", "logits": [[0.5, -1.0]]}}
    first, second = RunStore(tmp_path, DOCUMENT), RunStore(tmp_path, {**DOCUMENT, "answers": answers})
    assert first.run_id == second.run_id
    second.open()
    other = RunStore(tmp_path, {**DOCUMENT, "seed": 5})
    assert list(other.earlier_answers()) == [(second.folder.document, "net.build", answers["net.build"])]
    assert list(second.earlier_answers()) == list(other.earlier_answers()), "of the run itself, too"
