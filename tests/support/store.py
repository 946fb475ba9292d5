"""Records and a racing writer, in a module of its own: child processes must be able to import it by a name that no
installed package has (one popular package installs a top-level `tests`)."""

import sys
from pathlib import Path

from harness.storage import atomic
from harness.storage.records import cell_record
from harness.storage.runs import RunStore

DOCUMENT = {"attacks": ["pgd-10"], "expected": ["k1", "k2"], "seed": 0}


def make(i, bits="1010"):
    return cell_record(
        {"schema": 3, "kind": "cell", "start": 0, "stop": 4, "i": i},
        {"n": 4, "clean": "1111", "raw": bits, "last": "0101", "any": "0101"},
    )


def race(results, barrier, published, index):
    """One of several writers of the very same records; counts the files that it was the one to publish."""
    real = atomic.create

    def counted(*arguments):
        new = real(*arguments)
        published[index] += new
        return new

    atomic.create = counted
    store = RunStore(results, DOCUMENT)
    barrier.wait()
    for i in range(40):
        store.commit(make(i))


def commit_forever(results):
    """Commit what is not there yet and say so, until killed."""
    store = RunStore(results, DOCUMENT)
    store.open()
    i = 0
    while True:
        value = make(i)
        if store.find(value["key"]) is None:
            store.commit(value)
            print(i, flush=True)
        i += 1


if __name__ == "__main__":
    commit_forever(Path(sys.argv[1]))
