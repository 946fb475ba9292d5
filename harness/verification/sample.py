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
from harness.evaluation.evaluate import evaluate
from harness.evaluation.judge import REVISION as JUDGE_REVISION
from harness.evaluation.machine import make_reproducible
from harness.evaluation.measurement import Measurement
from harness.planning.budgets import with_step
from harness.planning.plan import knowledge_of
from harness.planning.selection import select_attacks
from harness.registry.names import titled
from harness.results.cells import COUNTED
from harness.storage.records import CELL, Record, identity
from harness.types import Attack, Cell, Defense, ThreatKind, ThreatModel
from harness.verification.rebuild import Rebuilder, Rebuilt
from harness.verification.verify import Verification
from harness.witnesses.coverage import subject_of

BITS = ("clean", "raw", "last", "any")
"""What an outcome says of every image."""
TOLERATED = 500
"""One verdict of so many may differ, as another processor rounds differently; one of a shard always may."""
CLOSE = 0.02
"""By how much any other number may differ, and on what share of the images."""


def recompute(result: Verification, networks: Rebuilder, number: int, seed: int, batch: int) -> Iterator[str]:
    """Draw shards by `seed` and attack them again; a line for each. What differs too much is put into the problems.

    Left out are analyses; attacks from a surrogate, whose weights nobody keeps; networks whose weights are not here;
    and random defenses, whose draws depend on the batches.

    Raises:
        DataError: where the dataset cannot be read.
        NothingSelected: where no shard can be attacked again.
    """
    make_reproducible()
    cells = [record for record in result.records if record["identity"]["kind"] == CELL]
    able = [record for record in cells if _can(record, networks)]
    if not able:
        raise NothingSelected(f"none of the {len(cells)} shards of {result.folder} can be attacked again")
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


def _can(record: Record, networks: Rebuilder) -> bool:
    head = record["identity"]
    drawn = head["passes"] > 1 or "stochastic" in record["outcome"]["flags"]
    return not drawn and "surrogate" not in head["supplies"] and networks.has(subject_of(head))


def _name(head: Record) -> str:
    name = titled(head["defense"], head["train_seed"])
    return f"{name} <- {head['attack']} ({head['threat']}), images {head['start']} to {head['stop']}"


def _again(record: Record, subject: Rebuilt, networks: Rebuilder, batch: int) -> tuple[str, bool]:
    """Attack one shard: in words what came of it, and whether its record stands."""
    head, data = record["identity"], subject.data
    threat = ThreatModel.parse(head["threat"])
    (selected,), _ = select_attacks([head["attack"]], networks.registry)
    entry = networks.registry.entry(Attack, head["attack"])
    defense = networks.registry.entry(Defense, head["defense"]).spec
    kind = networks.registry.get(ThreatKind, threat.kind).spec
    train = data.part("train") if "train_images" in entry.spec.needs else None
    cell = Cell(
        subject=subject.subject, attack=head["attack"], params=with_step(selected.params, threat, data.spec.step),
        threat=threat, seed=head["seed"], on=selected.on,
        knowledge=knowledge_of(entry.spec, selected.name, selected.on, defense), surrogate=None,
    )  # fmt: skip
    now = identity(
        cell, entry.spec, entry.provider.origin, subject.ready.provenance, JUDGE_REVISION, head["start"], head["stop"],
        {"train_images": train.sha256} if train else {}, kind,
    )  # fmt: skip
    for name in sorted({**now, **head}.keys() - {"recipe"}):
        if now.get(name) != head.get(name):
            return f"{name} is {now.get(name)} here, {head.get(name)} in the record", False
    supplies = Supplies(stand_ins=subject.ready.checkpoint.stand_ins, train=train)
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
    before, after = _by_image(recorded), _by_image(again)
    for name in {**before, **after}:
        here, there = before.get(name, []), after.get(name, [])
        changed = sum(not _close(a, b) for a, b in zip(here, there, strict=False)) + abs(len(here) - len(there))
        if changed > max(1, math.ceil(n / TOLERATED if name in BITS else CLOSE * n)):
            told.append(f"'{name}' differs on {changed} of {n} images")
    for group in ("flags", "probes"):
        for name in sorted({**recorded[group], **again[group]}):
            old, new = (outcome[group].get(name, 0) for outcome in (recorded, again))
            if not _close(old, new, CLOSE * n if name in COUNTED else CLOSE):
                told.append(f"{name} is {new:g}, not {old:g}")
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
