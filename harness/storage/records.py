"""What is written down about one cell on one shard, and how it is named.

A record is `identity` (everything that decides the result), `key` (the sha256 of the identity) and `outcome` (what
was observed, one bit for each image). Time, host, versions, batch size and device are in the attempt log instead.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.registry.names import plain
from harness.storage.canonical import canonical, digest
from harness.types import Analysis, Attack, Cell, Subject, ThreatKind, Value

SCHEMA = 3
CELL, ANALYSIS = "cell", "analysis"
"""The kinds of records."""
Record = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What a subject and its data came to, beyond the names in a cell: hashes, revisions and origins.

    `passes`: how many predictions stand behind a verdict. `gated`: as the defense declares it.
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
    passes: int = 1
    gated: bool = False


def identity(
    cell: Cell, attack: Attack, attack_origin: str, provenance: Provenance, judge: int, start: int, stop: int,
    supplies: Mapping[str, str], kind: ThreatKind,
) -> Record:  # fmt: skip
    """The deterministic head of a record; its digest is the record's key.

    `supplies`: what the attack was given besides the model -> its sha256.
    """
    return {
        **_subject(cell.subject, provenance),
        "kind": CELL,
        "judge": judge,
        "start": start,
        "stop": stop,
        "attack": cell.attack,
        "attack_origin": attack_origin,
        "attack_revision": attack.revision,
        "params": {name: plain(value) for name, value in cell.params.items()},
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
) -> Record:  # fmt: skip
    """The deterministic head of an analysis' record; `n`: how many test images it was given."""
    return {
        **_subject(subject, provenance),
        "kind": ANALYSIS,
        "analysis": name,
        "analysis_origin": origin,
        "analysis_revision": analysis.revision,
        "params": {key: plain(value) for key, value in params.items()},
        "n": n,
        "seed": seed,
    }


def _subject(subject: Subject, provenance: Provenance) -> Record:
    return {
        **dataclasses.asdict(provenance),
        "mandatory": list(provenance.mandatory),
        "schema": SCHEMA,
        "split": "test",
        "defense": subject.defense,
        "defense_params": {name: plain(value) for name, value in subject.defense_params.items()},
        "arch": subject.arch,
        "arch_params": {name: plain(value) for name, value in subject.arch_params.items()},
        "recipe": subject.recipe.name if subject.recipe else "given weights" if subject.weights else "own",
        "train_seed": subject.train_seed,
    }


def record(head: Record, outcome: Record) -> Record:
    """Put identity and outcome together under the key."""
    return {"key": digest(head), "identity": head, "outcome": outcome}


def seal(value: Record) -> bytes:
    """The bytes of a record file: one canonical line, and its sha256."""
    body = canonical(value)
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
        head, outcome = value["identity"], value["outcome"]
        if head["schema"] > SCHEMA:
            raise StoreError(f"{origin}: schema {head['schema']} is newer than this harness ({SCHEMA}); upgrade")
        if head["schema"] < SCHEMA:
            raise StoreError(f"{origin}: schema {head['schema']} is older than this harness ({SCHEMA}); run it again")
        if value["key"] != digest(head):
            raise StoreError(f"{origin}: its key is not that of its identity; it was edited or mixed up")
        problem = _CHECKS[head["kind"]](head, outcome)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{origin}: not a record ({type(error).__name__}: {error})") from error
    if problem:
        raise StoreError(f"{origin}: does not hold {problem}")
    return value  # type: ignore[no-any-return]


def _cell_problem(head: Record, outcome: Record) -> str:
    """What a cell's record lacks, empty where it is whole."""
    n = head["stop"] - head["start"]
    bits = [outcome[name] for name in ("clean", "raw", "last", "any")]
    numbers = [
        *([outcome["distances"]] if outcome.get("distances") is not None else []),
        *outcome.get("details", {}).values(),
    ]
    if outcome.get("n") != n or any(not isinstance(b, str) or len(b) != n or set(b) - {"0", "1"} for b in bits):
        return f"one bit for each of its {n} images"
    if not all(type(v) is list and len(v) == n and all(type(one) in (int, float) for one in v) for v in numbers):
        return f"one distance and one of each detail for each of its {n} images"
    return ""


def _analysis_problem(head: Record, outcome: Record) -> str:
    quantities = outcome["quantities"]
    fine = quantities and all(
        set(q) == {"value", "n", "unit"} and type(q["n"]) is int and type(q["value"]) in (int, float, type(None))
        for q in quantities.values()
    )
    return "" if fine else "a value, its n and its unit for each quantity"


_CHECKS = {CELL: _cell_problem, ANALYSIS: _analysis_problem}


def compact(values: Iterable[Record]) -> bytes:
    """Records as sorted JSON lines: the form that is committed."""
    return b"".join(canonical(value) + b"\n" for value in sorted(values, key=lambda value: str(value["key"])))


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
