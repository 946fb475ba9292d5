"""Writing down one cell on one shard, or one analysis, and reading it back with nothing believed.

A record is `identity` (everything that decides the result), `key` (the sha256 of the identity) and `outcome` (what was
observed, one bit for each image); `harness.storage.schema` says what is in them. Time, host, versions, batch size and
device are in the attempt log instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from harness.errors import StoreError
from harness.registry.names import plain
from harness.storage.canonical import canonical, digest
from harness.storage.schema import (
    ANALYSIS,
    BITS,
    CELL,
    SCHEMA,
    AnalysisIdentity,
    AnalysisObserved,
    AnalysisRecord,
    CellIdentity,
    CellObserved,
    CellRecord,
    Plain,
    Record,
    SubjectIdentity,
    chosen,
    network_of,
    recipe_name,
)
from harness.types import Analysis, Attack, Cell, Subject, ThreatKind, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What a subject and its data came to, beyond the names in a cell: hashes, revisions and origins.

    `votes`: how many predictions stand behind a verdict. `gated`: as the defense declares it.
    """

    dataset: str
    data_sha256: str
    split_size: int
    weights_sha256: str
    deployed_sha256: str
    defense_origin: str
    defense_revision: int
    mandatory: tuple[str, ...]
    arch_origin: str
    arch_revision: int
    votes: int = 1
    gated: bool = False


def cell_identity(
    cell: Cell, attack: Attack, attack_origin: str, provenance: Provenance, judge: int, start: int, stop: int,
    supplies: Mapping[str, str], kind: ThreatKind,
) -> CellIdentity:  # fmt: skip
    """Collect everything that decides the result of a cell on images `start` to `stop`; its digest is the record's key.

    `supplies`: what the attack was given besides the model -> its sha256.
    """
    return {
        **_subject_identity(cell.subject, provenance),
        "kind": CELL,
        "judge": judge,
        "start": start,
        "stop": stop,
        "attack": cell.attack,
        "attack_origin": attack_origin,
        "attack_revision": attack.revision,
        "params": _plain(cell.params),
        "threat": str(cell.threat),
        "on": cell.on,
        "knowledge": cell.knowledge,
        "minimal": attack.minimal,
        "supplies": dict(supplies),
        "ranked": kind.bounded and kind.box,
        "seed": cell.seed,
        "precision": "float32",
    }


def analysis_identity(
    subject: Subject, name: str, params: Mapping[str, Value], analysis: Analysis, origin: str, provenance: Provenance,
    n: int, seed: int,
) -> AnalysisIdentity:  # fmt: skip
    """Collect everything that decides the result of an analysis; `n`: how many test images it was given."""
    return {
        **_subject_identity(subject, provenance),
        "kind": ANALYSIS,
        "analysis": name,
        "analysis_origin": origin,
        "analysis_revision": analysis.revision,
        "params": _plain(params),
        "n": n,
        "seed": seed,
    }


def network_key(subject: Subject, provenance: Provenance) -> str:
    """Digest the part of every record of a subject that says which network on which images."""
    return digest(network_of(_subject_identity(subject, provenance)))


def _subject_identity(subject: Subject, provenance: Provenance) -> SubjectIdentity:
    return {
        "schema": SCHEMA,
        "dataset": provenance.dataset,
        "data_sha256": provenance.data_sha256,
        "split": "test",
        "split_size": provenance.split_size,
        "defense": subject.defense,
        "defense_params": _plain(subject.defense_params),
        "defense_origin": provenance.defense_origin,
        "defense_revision": provenance.defense_revision,
        "mandatory": list(provenance.mandatory),
        "gated": provenance.gated,
        "passes": provenance.votes,
        "arch": subject.arch,
        "arch_params": _plain(subject.arch_params),
        "arch_origin": provenance.arch_origin,
        "arch_revision": provenance.arch_revision,
        "recipe": recipe_name(subject),
        "train_seed": subject.train_seed,
        "weights_sha256": provenance.weights_sha256,
        "deployed_sha256": provenance.deployed_sha256,
    }


def _plain(params: Mapping[str, Value]) -> dict[str, Plain]:
    return {name: plain(value) for name, value in params.items()}


def cell_record(identity: CellIdentity, observed: CellObserved) -> CellRecord:
    """Put identity and observation of a cell together under the key."""
    return {"key": digest(identity), "identity": identity, "outcome": observed}


def analysis_record(identity: AnalysisIdentity, observed: AnalysisObserved) -> AnalysisRecord:
    """Put identity and observation of an analysis together under the key."""
    return {"key": digest(identity), "identity": identity, "outcome": observed}


def seal(record: Record) -> bytes:
    """Write a record file: one canonical line, and its sha256."""
    body = canonical(record)
    return body + b"\nsha256:" + _sha256(body).encode() + b"\n"


def unseal(data: bytes, origin: str) -> Record:
    """Read a record file back.

    Raises:
        StoreError: where a byte is wrong, missing or left over, or the key is not that of the identity.
    """
    body, _, tail = data.partition(b"\n")
    if tail != b"sha256:" + _sha256(body).encode() + b"\n":
        raise StoreError(f"{origin}: damaged, its checksum does not match. Remove it and run the same command again")
    return check(_parse(body, origin), origin)


def check(value: Any, origin: str) -> Record:
    """Compare a record with its own key and with what every record must have.

    Raises:
        StoreError: naming what is wrong.
    """
    try:
        identity, observed = value["identity"], value["outcome"]
        if identity["schema"] > SCHEMA:
            raise StoreError(f"{origin}: schema {identity['schema']} is newer than this harness ({SCHEMA}); upgrade")
        if identity["schema"] < SCHEMA:
            raise StoreError(
                f"{origin}: schema {identity['schema']} is older than this harness ({SCHEMA}); run it again"
            )
        if value["key"] != digest(identity):
            raise StoreError(f"{origin}: its key is not that of its identity; it was edited or mixed up")
        problem = _PROBLEMS[identity["kind"]](identity, observed)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{origin}: not a record ({type(error).__name__}: {error})") from error
    if problem:
        raise StoreError(f"{origin}: does not hold {problem}")
    return cast("Record", value)


def _cell_problem(identity: CellIdentity, observed: CellObserved) -> str:
    """Say what a cell's record lacks, empty where it is whole."""
    n = identity["stop"] - identity["start"]
    bits = list(chosen(observed, BITS).values())
    distances = observed.get("distances")
    numbers = [*([distances] if distances is not None else []), *observed.get("details", {}).values()]
    if observed.get("n") != n or any(not isinstance(b, str) or len(b) != n or set(b) - {"0", "1"} for b in bits):
        return f"one bit for each of its {n} images"
    if not all(type(v) is list and len(v) == n and all(type(one) in (int, float) for one in v) for v in numbers):
        return f"one distance and one of each detail for each of its {n} images"
    return ""


def _analysis_problem(identity: AnalysisIdentity, observed: AnalysisObserved) -> str:
    quantities = observed["quantities"]
    fine = quantities and all(
        set(q) == {"value", "n", "unit"} and type(q["n"]) is int and type(q["value"]) in (int, float, type(None))
        for q in quantities.values()
    )
    return "" if fine else "a value, its n and its unit for each quantity"


_PROBLEMS: Mapping[str, Callable[..., str]] = {CELL: _cell_problem, ANALYSIS: _analysis_problem}


def compact(records: Iterable[Record]) -> bytes:
    """Write records as sorted JSON lines: the form that is committed."""
    return b"".join(canonical(record) + b"\n" for record in sorted(records, key=lambda record: record["key"]))


def read_compacted(path: Path) -> list[Record]:
    """Read sorted JSON lines back.

    Raises:
        StoreError: where the file is missing, or a line is no record.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such file")
    lines = path.read_bytes().splitlines()
    return [check(_parse(line, f"{path}:{i}"), f"{path}:{i}") for i, line in enumerate(lines, 1)]


def _parse(body: bytes, origin: str) -> Any:
    try:
        value = json.loads(body)
        if canonical(value) != body:
            raise ValueError("not in canonical form")
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{origin}: not a record ({error})") from error
    return value


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
