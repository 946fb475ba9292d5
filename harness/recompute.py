"""Attacking a random sample of shards again: does the record say what comes out?"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import partial

from harness.breaks import subject_of
from harness.context import Supplies
from harness.engine.inline import attempt
from harness.evaluate import evaluate
from harness.judge import REVISION as JUDGE_REVISION
from harness.leaderboard.rows import COUNTED
from harness.machine import make_reproducible
from harness.measurement import Measurement, Shard
from harness.names import plain
from harness.plan import with_step
from harness.rebuild import Rebuilder, Rebuilt
from harness.records import CELL, Record
from harness.selection import select_attacks
from harness.types import Attack, Cell, ThreatKind, ThreatModel
from harness.verify import Verification

BITS = ("clean", "raw", "last", "any")
"""What an outcome says of every image."""
CLOSE = 0.02
"""The share of images that may differ, and of a number: another processor, or number of threads, rounds differently."""


def recompute(result: Verification, networks: Rebuilder, number: int, seed: int, batch: int) -> Iterator[str]:
    """Draw shards by `seed` and attack them again; a line for each. What differs too much is put into the problems.

    Left out are records of analyses, and of attacks from a surrogate, whose weights nobody keeps.

    Raises:
        DataError: where the dataset cannot be read.
    """
    make_reproducible()
    cells = [record for record in result.records if record["identity"]["kind"] == CELL]
    able = [
        record for record in cells
        if "surrogate" not in record["identity"]["supplies"] and result.weights(record["identity"]) is not None
    ]  # fmt: skip
    chosen = random.Random(seed).sample(sorted(able, key=lambda record: str(record["key"])), min(number, len(able)))
    others = len(cells) - len(able)
    yield f"{len(chosen)} of {len(able)} shards that can be attacked again, drawn by seed {seed}; {others} cannot"
    for record in chosen:
        found = networks.get(subject_of(record["identity"]))
        name = _name(record["identity"])
        if isinstance(found, str):
            told = found
        else:
            tried = attempt(partial(_again, record, found, networks, batch))
            told, stands = tried.value or (tried.error, False)
            result.problems += [] if stands else [f"{name}: {told}"]
        yield f"{name}: {told}"


def _name(head: Record) -> str:
    return f"{head['defense']} <- {head['attack']} ({head['threat']}), images {head['start']} to {head['stop']}"


def _again(record: Record, subject: Rebuilt, networks: Rebuilder, batch: int) -> tuple[str, bool]:
    """Attack one shard: in words what came of it, and whether its record stands."""
    head, data = record["identity"], subject.data
    threat = ThreatModel.parse(head["threat"])
    (selected,), _ = select_attacks([head["attack"]], networks.registry)
    entry = networks.registry.entry(Attack, head["attack"])
    params = with_step(selected.params, threat, data.spec.step)
    installed = {
        "attack_origin": entry.provider.origin, "attack_revision": entry.spec.revision, "judge": JUDGE_REVISION,
        "params": {name: plain(value) for name, value in params.items()},
    }  # fmt: skip
    for name, value in installed.items():
        if value != head[name]:
            return f"{name} is {value} here, {head[name]} in the record", False
    train = data.part("train") if "train_images" in entry.spec.needs else None
    if train is not None and train.sha256 != head["supplies"]["train_images"]:
        return "the training images here are not those of the record", False
    cell = Cell(
        subject=subject.subject, attack=head["attack"], params=params, threat=threat, seed=head["seed"],
        on=head["on"], knowledge=head["knowledge"], surrogate=None,
    )  # fmt: skip
    supplies = Supplies(stand_ins=subject.ready.checkpoint.stand_ins, train=train)
    kind = networks.registry.get(ThreatKind, threat.kind).spec
    shard = Shard.of(data, (head["start"], head["stop"]), networks.device)
    (measured,) = evaluate(subject.judge, shard, entry.spec, [cell], kind, batch, supplies).results
    if not isinstance(measured, Measurement):
        return f"refused now: {measured}", False
    again = subject.ready.outcome(measured, entry.spec)
    if again == record["outcome"]:
        return "as recorded", True
    told = differences(record["outcome"], again)
    return "; ".join(told) or "as recorded, but for rounding", not told


def differences(recorded: Record, again: Record) -> list[str]:
    """In words, where two outcomes of one shard are further apart than rounding may bring them."""
    n = recorded["n"]
    told = []
    for name, before in _by_image(recorded).items():
        after = _by_image(again).get(name, [])
        changed = sum(not _close(a, b) for a, b in zip(before, after, strict=False)) + abs(len(before) - len(after))
        if changed > CLOSE * n:
            told.append(f"'{name}' differs on {changed} of {n} images")
    for group in ("flags", "probes"):
        for name in sorted({**recorded[group], **again[group]}):
            before, after = (outcome[group].get(name, 0) for outcome in (recorded, again))
            if not _close(before, after, CLOSE * n if name in COUNTED else CLOSE):
                told.append(f"{name} is {after:g}, not {before:g}")
    for name in ("forwards", "backwards"):
        if not _close(recorded[name], again[name]):
            told.append(f"{again[name]} {name}, not {recorded[name]}")
    return told


def _by_image(outcome: Record) -> dict[str, list[float]]:
    """What an outcome says of every image: verdicts, distances and details."""
    told = {name: [float(bit) for bit in outcome[name]] for name in BITS}
    return {**told, "distances": outcome.get("distances", []), **outcome.get("details", {})}


def _close(before: float, after: float, absolute: float = 1e-3) -> bool:
    return math.isclose(before, after, rel_tol=CLOSE, abs_tol=absolute)
