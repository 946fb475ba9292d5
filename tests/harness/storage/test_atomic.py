"""Power cuts, full disks and killed writers, played through system call by system call."""

import errno
import hashlib
import itertools
import os
import stat
import uuid
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.storage import atomic, records
from support.records import record_of

LATER = 2.0**40  # a moment after every file


class Calls:
    """Stands in for `os` inside `harness.storage.atomic`; every system call passes through `around`."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(atomic, "os", self)
        self._mkdir = os.mkdir
        monkeypatch.setattr(os, "mkdir", self.mkdir)  # pathlib makes the folders

    def __getattr__(self, name):
        return getattr(os, name)

    def around(self, name, call, *arguments):
        return call(*arguments)

    def mkdir(self, path, mode=0o777):
        if Path(path).exists():  # pathlib asks first and looks afterwards
            return self._mkdir(path, mode)
        return self.around("mkdir", self._mkdir, path, mode)

    def open(self, path, flags, mode=0o777):
        return self.around("open", os.open, path, flags, mode)

    def write(self, descriptor, data):
        return self.around("write", os.write, descriptor, data)

    def fsync(self, descriptor):
        return self.around("fsync", os.fsync, descriptor)

    def close(self, descriptor):
        return self.around("close", os.close, descriptor)

    def link(self, source, target):
        return self.around("link", os.link, source, target)

    def replace(self, source, target):
        return self.around("replace", os.replace, source, target)

    def unlink(self, path):
        return self.around("unlink", os.unlink, path)


# What a power cut may leave behind. A log of what was asked of the disk:
#   ("data", file, bytes)  ("sync", file)  ("names", folder, {name: file, folder or None})  ("sync folder", folder)
#   ("done", path, bytes)  the caller was told that this is safe


class Log(Calls):
    def __init__(self, monkeypatch):
        super().__init__(monkeypatch)
        self.log = []
        self.opened = {}  # descriptor -> file or folder
        self.files = {}  # path -> file
        self.numbers = itertools.count()

    def around(self, name, call, *arguments):
        result = call(*arguments)
        paths = [Path(a) for a in arguments if isinstance(a, str | Path)]
        if name == "mkdir":
            self._names(paths[0], paths[0])
        elif name == "open":
            if arguments[1] & os.O_CREAT:
                self.files[paths[0]] = f"file {next(self.numbers)}"
                self._names(paths[0], self.files[paths[0]])
            self.opened[result] = self.files.get(paths[0], paths[0])
        elif name == "write":
            self.log.append(("data", self.opened[arguments[0]], bytes(arguments[1])[:result]))
        elif name == "fsync":
            thing = self.opened[arguments[0]]
            self.log.append(("sync folder" if isinstance(thing, Path) else "sync", thing))
        elif name == "link":
            self.files[paths[1]] = self.files[paths[0]]
            self._names(paths[1], self.files[paths[1]])
        elif name == "replace":
            assert paths[0].parent == paths[1].parent, "the model below knows renames within one folder only"
            self.files[paths[1]] = self.files.pop(paths[0])
            self.log.append(("names", paths[0].parent, {paths[0].name: None, paths[1].name: self.files[paths[1]]}))
        elif name == "unlink":
            self._names(paths[0], None)
        return result

    def _names(self, path, thing):
        self.log.append(("names", path.parent, {path.name: thing}))

    def done(self, path, data):
        self.log.append(("done", path, data))


def disks(log, paths):
    """Every {path: bytes or None} that may be found when the power goes after the last call of the log."""
    made = {thing for kind, _, *rest in log if kind == "names" for thing in rest[0].values() if isinstance(thing, Path)}
    data, synced, folders = {}, {}, {}
    for kind, thing, *rest in log:
        if kind == "data":
            data[thing] = data.get(thing, b"") + rest[0]
        elif kind == "sync":
            synced[thing] = data.get(thing, b"")
        elif kind == "names":
            folders.setdefault(thing, ([], []))[1].append(rest[0])
        elif kind == "sync folder":
            safe, pending = folders.setdefault(thing, ([], []))
            safe.extend(pending)
            pending.clear()
    relevant = {folder for path in paths for folder in path.parents} & set(folders)
    listings = [
        [
            {name: thing for names in [*safe, *kept] for name, thing in names.items()}
            for size in range(len(pending) + 1)
            for kept in itertools.combinations(pending, size)
        ]
        for safe, pending in (folders[folder] for folder in relevant)
    ]
    for chosen in itertools.product(*listings):
        listing = dict(zip(relevant, chosen, strict=True))

        def there(folder, listing=listing):
            if folder not in made:
                return True
            return listing.get(folder.parent, {}).get(folder.name) == folder and there(folder.parent)

        found = {path: listing.get(path.parent, {}).get(path.name) if there(path.parent) else None for path in paths}
        files = sorted(set(found.values()) - {None})
        contents = [
            [synced[file]] if synced.get(file) == data.get(file) is not None else torn(data.get(file, b""))
            for file in files
        ]
        for content in itertools.product(*contents):
            held = dict(zip(files, content, strict=True))
            yield {path: held.get(file) for path, file in found.items()}


def torn(data):
    """What may be left of bytes that were never synced."""
    half = len(data) // 2
    return [b"", data[:half], bytes(len(data)), data[:half] + bytes(len(data) - half), bytes(half) + data[half:], data]


def violations(log, versions):
    """(what, bytes found) for every power cut after which a path holds no version, or one older than was confirmed.

    `versions`: path -> what it may hold, oldest first.
    """
    found = []
    for cut in range(len(log) + 1):
        oldest = dict.fromkeys(versions, 0)
        for kind, path, *rest in log[:cut]:
            if kind == "done":
                oldest[path] = versions[path].index(rest[0])
        for disk in disks(log[:cut], list(versions)):
            for path, held in disk.items():
                if held not in versions[path]:
                    found.append(("torn", held))
                elif held not in versions[path][oldest[path] :]:
                    found.append(("lost", held))
    return found


def sealed(i):
    head = {"schema": 3, "kind": "cell", "start": 0, "stop": 4, "i": i}
    bits = {"clean": "1111", "raw": "1010", "last": "0101", "any": "0101"}
    return records.seal(record_of(head, {"n": 4, **bits}))


def publish_three(folder, monkeypatch):
    """Three records into one folder that is there already."""
    (folder / "records").mkdir()
    (folder / "tmp").mkdir()
    with monkeypatch.context() as patch:
        log = Log(patch)
        versions = {}
        for i in range(3):
            path, data = folder / "records" / f"{i}.json", sealed(i)
            versions[path] = [None, data]
            assert atomic.create(path, data, folder / "tmp") is True
            log.done(path, data)
    return log.log, versions


def replace_thrice(folder, monkeypatch):
    path, versions = folder / "run.json", [None, *(sealed(i) for i in range(3))]
    with monkeypatch.context() as patch:
        log = Log(patch)
        for data in versions[1:]:
            atomic.replace(path, data)
            log.done(path, data)
    return log.log, {path: versions}


def without(kind):
    return lambda log: [entry for entry in log if entry[0] != kind]


def synced_late(log):
    """Each file's fsync moved behind the call that makes it visible."""
    changed = list(log)
    for entry in [entry for entry in log if entry[0] == "sync"]:
        changed.remove(entry)
        last = max(i for i, e in enumerate(changed) if e[0] == "names" and entry[1] in e[2].values())
        changed.insert(last + 1, entry)
    return changed


SCENES = pytest.mark.parametrize("scene", [publish_three, replace_thrice])


@SCENES
def test_no_power_cut_shows_torn_bytes_or_loses_what_was_confirmed(scene, tmp_path, monkeypatch):
    log, versions = scene(tmp_path, monkeypatch)
    kinds = [entry[0] for entry in log]
    assert kinds.count("done") == kinds.count("sync") == kinds.count("sync folder") == kinds.count("data") == 3
    assert violations(log, versions) == []


@SCENES
@pytest.mark.parametrize(
    ("mutant", "wanted"),
    [(without("sync"), {"torn"}), (without("sync folder"), {"lost"}), (synced_late, {"torn"})],
    ids=["file never synced", "folder never synced", "file synced after it is visible"],
)
def test_the_check_above_finds_what_it_is_for(scene, mutant, wanted, tmp_path, monkeypatch):
    log, versions = scene(tmp_path, monkeypatch)
    found = violations(mutant(log), versions)
    assert wanted <= {what for what, _ in found}
    for held in {held for what, held in found if what == "torn"}:
        with pytest.raises(StoreError):  # the second line of defence
            records.unseal(held, "torn.json")


@pytest.mark.parametrize("publish", ["create", "replace"])
def test_new_folders_survive_a_power_cut_too(publish, tmp_path, monkeypatch):
    versions = {}
    with monkeypatch.context() as patch:
        log = Log(patch)
        for i in range(2):
            path, data = tmp_path / "run" / "records" / f"a{i}" / "x.json", sealed(i)
            versions[path] = [None, data]
            if publish == "create":
                atomic.create(path, data, tmp_path / "run" / "tmp")
            else:
                atomic.replace(path, data)
            log.done(path, data)
    assert any(kind == "names" and thing == tmp_path for kind, thing, *_ in log.log), "the folders are in the log"
    assert violations(log.log, versions) == []


# Calls that fail


class Faults(Calls):
    """Fails the n-th system call with an error code; `lasting` also the later ones that take up space."""

    def __init__(self, monkeypatch, n, code, lasting=False):
        super().__init__(monkeypatch)
        self.n, self.code, self.lasting = n, code, lasting
        self.names, self.failed = [], ""

    def around(self, name, call, *arguments):
        self.names.append(name)
        later = self.lasting and self.failed and name in ("mkdir", "write", "fsync", "link", "replace")
        if len(self.names) == self.n or later:
            self.failed = self.failed or name
            if name == "close":
                call(*arguments)
            raise OSError(self.code, os.strerror(self.code), "somewhere")
        return call(*arguments)


CODES = pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
LASTING = pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])


def every_fault(tmp_path, monkeypatch, code, lasting, attempt):
    """Yield (folder, faults) after a failed attempt, for the first call, the second, ... until an attempt passes."""
    for n in itertools.count(1):
        folder = tmp_path / str(n)
        folder.mkdir()
        with monkeypatch.context() as patch:
            faults = Faults(patch, n, code, lasting)
            if not faults_raised(attempt, folder):
                assert not faults.failed, f"a failing {faults.failed} went unnoticed"
                assert n >= 8, "the calls pass through the stand-in"
                return
        yield folder, faults


def faults_raised(attempt, folder):
    try:
        attempt(folder)
    except StoreError as error:
        return "cannot write" in str(error)
    return False


def leftovers(folder):
    return [path for path in folder.rglob("*") if path.suffix == ".tmp"]


@CODES
@LASTING
def test_a_failing_call_leaves_nothing_behind_and_the_next_attempt_works(tmp_path, monkeypatch, code, lasting):
    data = sealed(1)

    def attempt(folder):
        return atomic.create(folder / "records" / "a" / "x.json", data, folder / "tmp")

    for folder, faults in every_fault(tmp_path, monkeypatch, code, lasting, attempt):
        path = folder / "records" / "a" / "x.json"
        assert not path.exists() or path.read_bytes() == data, faults.names
        if "link" not in faults.names or faults.failed == "link":
            assert not path.exists()
        if faults.failed == "unlink":
            assert atomic.sweep(folder / "tmp", LATER) == 1
        assert leftovers(folder) == [], faults.names
        was_there = path.exists()
        assert attempt(folder) is not was_there
        assert path.read_bytes() == data
        assert leftovers(folder) == []


@CODES
@LASTING
def test_a_failing_replacement_keeps_the_old_file(tmp_path, monkeypatch, code, lasting):
    old, new = sealed(1), sealed(2)

    def attempt(folder):
        path = folder / "x.json"
        if not path.exists():
            path.write_bytes(old)
        atomic.replace(path, new)

    for folder, faults in every_fault(tmp_path, monkeypatch, code, lasting, attempt):
        replaced = "replace" in faults.names and faults.failed != "replace"
        assert (folder / "x.json").read_bytes() == (new if replaced else old), faults.names
        assert leftovers(folder) == [], faults.names
        attempt(folder)
        assert (folder / "x.json").read_bytes() == new
        assert leftovers(folder) == []


@CODES
def test_a_failing_first_write_leaves_no_file(tmp_path, monkeypatch, code):
    data = sealed(1)

    def attempt(folder):
        atomic.replace(folder / "fresh" / "deep" / "x.json", data)

    for folder, faults in every_fault(tmp_path, monkeypatch, code, True, attempt):
        path = folder / "fresh" / "deep" / "x.json"
        assert path.exists() == ("replace" in faults.names and faults.failed != "replace"), faults.names
        assert not path.exists() or path.read_bytes() == data
        assert leftovers(folder) == [], faults.names
        attempt(folder)
        assert path.read_bytes() == data


def test_the_reason_is_in_the_message(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Faults(patch, 1, errno.ENOSPC, lasting=True)
        with pytest.raises(StoreError, match=r"x\.json: No space left on device") as caught:
            atomic.create(tmp_path / "new" / "x.json", b"x", tmp_path / "tmp")
    assert isinstance(caught.value.__cause__, OSError)


class Killed(BaseException):
    """kill -9: no call after the n-th reaches the system, not even from a `finally`."""


class Death(Calls):
    def __init__(self, monkeypatch, n):
        super().__init__(monkeypatch)
        self.left, self.descriptors = n, set()

    def around(self, name, call, *arguments):
        if self.left == 0:
            raise Killed
        self.left -= 1
        result = call(*arguments)
        if name == "open":
            self.descriptors.add(result)
        if name == "close":
            self.descriptors.discard(arguments[0])
        return result


@pytest.mark.parametrize("publish", ["create", "replace"])
def test_a_writer_killed_between_any_two_calls_does_no_harm(tmp_path, monkeypatch, publish):
    data = sealed(1)

    def attempt(folder):
        path = folder / "records" / "x.json"
        if publish == "create":
            atomic.create(path, data, folder / "records")
        else:
            atomic.replace(path, data)

    for n in itertools.count(0):
        folder = tmp_path / str(n)
        folder.mkdir()
        path = folder / "records" / "x.json"
        with monkeypatch.context() as patch:
            death = Death(patch, n)
            try:
                attempt(folder)
                break
            except Killed:
                for descriptor in death.descriptors:
                    os.close(descriptor)
        assert not path.exists() or path.read_bytes() == data
        attempt(folder)
        assert path.read_bytes() == data
        atomic.sweep(folder / "records", LATER)
        assert [found.name for found in (folder / "records").iterdir()] == ["x.json"]
    assert n > 6, "the calls pass through the stand-in"


# What is there already


def test_the_same_bytes_twice_are_fine_and_other_bytes_are_refused(tmp_path):
    path, scratch = tmp_path / "a" / "x.json", tmp_path / "tmp"
    assert atomic.create(path, b"one", scratch) is True
    inode = path.stat().st_ino
    assert atomic.create(path, b"one", scratch) is False
    for other in (b"two", b"on", b"one ", b""):
        with pytest.raises(StoreError, match=r"x\.json exists with other content"):
            atomic.create(path, other, scratch)
    assert path.read_bytes() == b"one"
    assert path.stat().st_ino == inode
    assert list(scratch.iterdir()) == []


def test_a_link_that_worked_but_says_it_exists_counts_as_published(tmp_path, monkeypatch):
    class Retransmitted(Calls):
        def around(self, name, call, *arguments):
            result = call(*arguments)
            if name == "link":
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            return result

    with monkeypatch.context() as patch:
        Retransmitted(patch)
        assert atomic.create(tmp_path / "x.json", b"one", tmp_path / "tmp") is True
    assert (tmp_path / "x.json").read_bytes() == b"one"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("size", [0, 1, 7, 1000])
def test_short_writes_are_continued(tmp_path, monkeypatch, size):
    class Short(Calls):
        def around(self, name, call, *arguments):
            if name == "write":
                return call(arguments[0], arguments[1][:3])
            return call(*arguments)

    data = bytes(i % 251 for i in range(size))
    with monkeypatch.context() as patch:
        Short(patch)
        atomic.create(tmp_path / "created", data, tmp_path / "tmp")
        atomic.replace(tmp_path / "replaced", data)
    assert (tmp_path / "created").read_bytes() == (tmp_path / "replaced").read_bytes() == data


def test_replacing_needs_no_older_file_and_writes_a_new_inode(tmp_path):
    path = tmp_path / "new" / "run.json"
    atomic.replace(path, b"one")
    with path.open("rb") as reader:
        atomic.replace(path, b"two")
        assert reader.read() == b"one", "an open reader keeps the whole old file"
    assert path.read_bytes() == b"two"
    assert [found.name for found in path.parent.iterdir()] == ["run.json"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o444, "others in the group may read results, as umask allows"


def test_a_folder_in_the_way_is_a_store_error(tmp_path):
    (tmp_path / "x.json").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for attempt in (
        lambda: atomic.create(tmp_path / "x.json", b"one", tmp_path / "tmp"),
        lambda: atomic.replace(tmp_path / "x.json", b"one"),
        lambda: atomic.create(tmp_path / "file" / "x.json", b"one", tmp_path / "tmp"),
        lambda: atomic.create(tmp_path / "y.json", b"one", tmp_path / "file"),
        lambda: atomic.replace(tmp_path / "file" / "x.json", b"one"),
    ):
        with pytest.raises(StoreError, match="cannot write"):
            attempt()
    assert leftovers(tmp_path) == []


def test_sweeping_takes_old_temporary_files_only(tmp_path):
    moment = 1_000_000.0
    ages = {
        "old.tmp": -1,
        "older.tmp": -99,
        "same.tmp": 0,
        "young.tmp": 1,
        "old.json": -99,
        "tmp": -99,
        "old.tmp.x": -99,
    }
    for name, age in ages.items():
        path = tmp_path / name
        path.write_bytes(b"x")
        os.utime(path, (moment + age, moment + age))
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "deep.tmp").write_bytes(b"x")
    assert atomic.sweep(tmp_path, moment) == 2
    assert {path.name for path in tmp_path.iterdir()} == {*ages, "inner"} - {"old.tmp", "older.tmp"}
    assert (inner / "deep.tmp").exists()


def test_sweeping_a_folder_that_is_not_there_or_was_swept_meanwhile(tmp_path, monkeypatch):
    assert atomic.sweep(tmp_path / "none", LATER) == 0
    (tmp_path / "a.tmp").write_bytes(b"x")
    found = list(tmp_path.glob("*.tmp"))
    (tmp_path / "a.tmp").unlink()
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(found))
    assert atomic.sweep(tmp_path, LATER) == 0


def test_large_content_arrives_whole(tmp_path):
    data = hashlib.shake_256(uuid.UUID(int=1).bytes).digest(3_000_000)
    atomic.create(tmp_path / "x", data, tmp_path / "tmp")
    assert (tmp_path / "x").read_bytes() == data
