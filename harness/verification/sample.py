"""Attacking a random sample of shards again: does the record say what comes out?"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import partial

from harness.data.shard import Shard
from harness.errors import NothingSelected
from harness.evaluation.attempt import attempt
from harness.evaluation.context import Supplies
from harness.evaluation.evaluate import AttackRun, evaluate
from harness.evaluation.judge import REVISION as JUDGE_REVISION
from harness.evaluation.machine import make_reproducible
from harness.evaluation.measurement import Measurement
from harness.planning.budgets import with_step
from harness.planning.plan import knowledge_of
from harness.planning.selection import select_attacks
from harness.registry.names import titled
from harness.storage.records import cell_identity
from harness.storage.schema import (
    BITS,
    COUNTED,
    CellIdentity,
    CellObserved,
    CellRecord,
    cell_records,
    chosen,
    network_of,
)
from harness.types import Attack, Cell, ThreatKind, ThreatModel
from harness.verification.rebuild import Rebuilder, Rebuilt
from harness.verification.verify import Verification

TOLERATED = 500
"""One verdict of so many may differ, as another processor rounds differently; one of a shard always may."""
CLOSE = 0.02
"""By what share of itself any other number may differ, and on what share of the images it may differ by more."""


def recompute(result: Verification, networks: Rebuilder, number: int, seed: int, batch: int) -> Iterator[str]:
    """Draw shards by `seed` and attack them again; yields a line for each.

    What differs too much is appended to the problems of `result`. Left out are analyses; attacks from a surrogate,
    whose weights nobody keeps; networks whose weights are not here; and random defenses, whose draws depend on the
    batches. Those drawn whose network cannot be had after all are added to what `result` says was not judged.

    Raises:
        DataError: where the dataset cannot be read.
        NothingSelected: where no shard can be attacked again, or none of those drawn.
    """
    make_reproducible()
    cells = list(cell_records(result.records))
    able = [record for record in cells if _can(record, networks)]
    if not able:
        raise NothingSelected(f"none of the {len(cells)} shards of {result.folder} can be attacked again")
    drawn = random.Random(seed).sample(sorted(able, key=lambda record: record["key"]), min(number, len(able)))
    others = len(cells) - len(able)
    yield f"{len(drawn)} of {len(able)} shards that can be attacked again, drawn by seed {seed}; {others} cannot"
    missed: list[str] = []
    for record in drawn:
        found = networks.get(network_of(record["identity"]))
        name = _name(record["identity"])
        if isinstance(found, str):
            told = found
            missed.append(f"{name}: {found}")
        else:
            tried = attempt(partial(_again, record, found, networks, batch))
            told, stands = tried.value or (tried.error, False)
            result.problems += [] if stands else [f"{name}: {told}"]
        yield f"{name}: {told}"
    result.unjudged += missed
    if len(missed) == len(drawn) and not result.problems:
        raise NothingSelected(f"none of the {len(drawn)} shards that were drawn could be attacked again")


def _can(record: CellRecord, networks: Rebuilder) -> bool:
    identity = record["identity"]
    drawn = identity["passes"] > 1 or "stochastic" in record["outcome"]["flags"]
    return not drawn and "surrogate" not in identity["supplies"] and networks.has(network_of(identity))


def _name(identity: CellIdentity) -> str:
    name = titled(identity["defense"], identity["train_seed"])
    return f"{name} <- {identity['attack']} ({identity['threat']}), images {identity['start']} to {identity['stop']}"


def _again(record: CellRecord, subject: Rebuilt, networks: Rebuilder, batch: int) -> tuple[str, bool]:
    """Attack one shard again; say in words what came of it, and whether its record stands."""
    identity, data = record["identity"], subject.data
    threat = ThreatModel.parse(identity["threat"])
    (selected,), _ = select_attacks([identity["attack"]], networks.registry)
    entry = networks.registry.entry(Attack, identity["attack"])
    kind = networks.registry.get(ThreatKind, threat.kind).spec
    train = data.part("train") if "train_images" in entry.spec.needs else None
    cell = Cell(
        subject=subject.subject, attack=identity["attack"], params=with_step(selected.params, threat, data.spec.step),
        threat=threat, seed=identity["seed"], on=selected.on,
        knowledge=knowledge_of(entry.spec, selected.name, selected.on, subject.defense), surrogate=None,
    )  # fmt: skip
    now = cell_identity(
        cell, entry.spec, entry.provider.origin, subject.ready.provenance, JUDGE_REVISION, identity["start"],
        identity["stop"], {"train_images": train.sha256} if train else {}, kind,
    )  # fmt: skip
    here, there = dict(now), dict(identity)
    for name in sorted({**here, **there}.keys() - {"recipe"}):
        if here.get(name) != there.get(name):
            return f"{name} is {here.get(name)} here, {there.get(name)} in the record", False
    supplies = Supplies(stand_ins=subject.ready.checkpoint.stand_ins, train=train)
    shard = Shard.of(data, (identity["start"], identity["stop"]), networks.device)
    run = AttackRun(judge=subject.judge, attack=entry.spec, cells=[cell], kind=kind, batch=batch, supplies=supplies)
    (measured,) = evaluate(run, shard).results
    if not isinstance(measured, Measurement):
        return f"refused now: {measured}", False
    again = subject.ready.observed(measured, entry.spec)
    if again == record["outcome"]:
        return "as recorded", True
    told = differences(record["outcome"], again)
    return "; ".join(told) or "as recorded, but for rounding", not told


def differences(recorded: CellObserved, again: CellObserved) -> list[str]:
    """Say in words where two observations of one shard are further apart than rounding may bring them."""
    n = recorded["n"]
    told = []
    before, after = _by_image(recorded), _by_image(again)
    for name in {**before, **after}:
        here, there = before.get(name, []), after.get(name, [])
        changed = sum(not _close(a, b) for a, b in zip(here, there, strict=False)) + abs(len(here) - len(there))
        if changed > max(1, math.ceil(n / TOLERATED if name in BITS else CLOSE * n)):
            told.append(f"'{name}' differs on {changed} of {n} images")
    for olds, news in ((recorded["flags"], again["flags"]), (recorded["probes"], again["probes"])):
        for name in sorted({**olds, **news}):
            old, new = olds.get(name, 0), news.get(name, 0)
            if not _close(old, new, CLOSE * n if name in COUNTED else CLOSE):
                told.append(f"{name} is {new:g}, not {old:g}")
    for name, spent, now in (
        ("forwards", recorded["forwards"], again["forwards"]),
        ("backwards", recorded["backwards"], again["backwards"]),
    ):
        if not _close(spent, now):
            told.append(f"{now} {name}, not {spent}")
    return told


def _by_image(observed: CellObserved) -> dict[str, list[float]]:
    """Collect what was observed of every image: verdicts, distances and details."""
    told = {name: [float(bit) for bit in bits] for name, bits in chosen(observed, BITS).items()}
    return {**told, "distances": observed.get("distances", []), **observed.get("details", {})}


def _close(before: float, after: float, absolute: float = 1e-3) -> bool:
    return math.isclose(before, after, rel_tol=CLOSE, abs_tol=absolute)
