"""The one loop: obtain each subject, run what is not recorded yet, keep every failure where it happened."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from harness import __version__, checkpoints, records
from harness.data import LoadedDataset, shards
from harness.engine.inline import attempt
from harness.errors import CheckpointError, HarnessError
from harness.evaluate import JUDGE_REVISION, Judge, Measurement, Refused, Shard, evaluate
from harness.names import parse_name
from harness.plan import Plan
from harness.registry import Registry
from harness.reporter import Reporter
from harness.store import RunStore
from harness.types import Attack, Cell, Defense, Subject


class Interrupted(KeyboardInterrupt):
    """The user asked to stop; everything finished is on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to run, none of which may change a verdict."""

    output: Path = Path("results")
    checkpoints: Path = Path("results/checkpoints")
    data_root: Path = Path("data")
    device: str = "auto"
    batch_size: int = 250
    fail_fast: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A cell without a number, and why."""

    defense: str
    attack: str
    threat: str
    state: str
    reason: str


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a run came to: its folder, every finished record, and what failed."""

    run: Path | None = None
    n: int = 0
    records: list[records.Record] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    reused: int = 0
    computed: int = 0
    interrupted: bool = False


@dataclass(slots=True, kw_only=True)
class _Ready:
    """A subject whose network is there, with the specs that its records name."""

    judge: Judge
    sha256: str
    defense: Defense
    stochastic: bool | None = None


def bench(plan: Plan, registry: Registry, settings: Settings, reporter: Reporter) -> Outcome:
    """Run the plan. Re-running continues: trainings after their last epoch, attacks after their last shard."""
    device = pick_device(settings.device)
    make_reproducible()
    data = LoadedDataset(plan.dataset, plan.dataset_name, settings.data_root, plan.location)
    n = _limit(plan.limit, len(data.part("test")))
    outcome = Outcome(n=n)
    ready: dict[int, _Ready] = {}
    try:
        for number, subject in enumerate(plan.subjects):
            found = _obtain(subject, registry, data, settings, device, reporter, outcome, plan)
            if found is not None:
                ready[number] = found
        _attack(plan, registry, data, settings, device, reporter, outcome, ready)
    except KeyboardInterrupt:
        outcome.interrupted = True
    return outcome


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` takes a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise HarnessError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


def make_reproducible() -> None:
    """Choose exact arithmetic over fast: no TF32, no autotuned kernels."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def environment(device: torch.device) -> dict[str, Any]:
    """The stamp of this machine and its libraries."""
    return {
        "harness": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def _limit(limit: float | None, size: int) -> int:
    if limit is None:
        return size
    return min(size, max(1, round(limit * size)) if limit < 1 else int(limit))


def _obtain(
    subject: Subject, registry: Registry, data: LoadedDataset, settings: Settings, device: torch.device,
    reporter: Reporter, outcome: Outcome, plan: Plan,
) -> _Ready | None:  # fmt: skip
    tried = attempt(lambda: checkpoints.obtain(subject, registry, data, settings.checkpoints, device, reporter))
    checkpoint = tried.value
    if checkpoint is None:
        if "CheckpointError" in tried.error and subject.weights:
            raise CheckpointError(tried.error.partition(": ")[2])
        reporter.warn(f"{subject.defense}: {tried.error}")
        state = "failed"
        outcome.failures += [
            Failure(defense=subject.defense, attack=c.attack, threat=str(c.threat), state=state, reason=tried.error)
            for c in plan.cells
            if c.subject == subject
        ]
        return None
    seconds = f" in {tried.seconds:.0f} s" if checkpoint.origin in ("trained", "resumed") else ""
    where = f" ({checkpoint.path})" if checkpoint.path else ""
    reporter.note(f"{subject.defense}: weights {checkpoint.origin}{seconds}, sha256 {checkpoint.sha256[:12]}{where}")
    defense = registry.get(Defense, parse_name(subject.defense)[0]).spec
    return _Ready(judge=Judge(checkpoint.model, data.classes), sha256=checkpoint.sha256, defense=defense)


def _attack(
    plan: Plan, registry: Registry, data: LoadedDataset, settings: Settings, device: torch.device,
    reporter: Reporter, outcome: Outcome, ready: dict[int, _Ready],
) -> None:  # fmt: skip
    heads: dict[tuple[int, int], dict[int, records.Record]] = {}
    spans = shards(outcome.n)
    test = data.part("test")
    jobs = []
    for number, cells in enumerate(plan.groups):
        subject = ready.get(plan.subjects.index(cells[0].subject))
        if subject is None:
            continue
        attack = registry.get(Attack, parse_name(cells[0].attack)[0]).spec
        jobs.append((number, cells, subject, attack))
        for shard, (start, stop) in enumerate(spans):
            heads[number, shard] = {
                index: records.identity(
                    cell, registry.get(Attack, parse_name(cell.attack)[0]).spec, subject.defense,
                    judge_revision=JUDGE_REVISION, weights_sha256=subject.sha256, dataset=data.name,
                    data_sha256=test.sha256, split_size=len(test), start=start, stop=stop,
                )
                for index, cell in enumerate(cells)
            }  # fmt: skip
    keys = [records.digest(head) for group in heads.values() for head in group.values()]
    if not keys:
        return
    store = RunStore(settings.output, _document(plan, data, outcome.n, keys))
    store.open()
    store.note_environment(environment(device))
    outcome.run = store.path
    order = data.order()
    try:
        for number, cells, subject, attack in jobs:
            reporter.attack_start(cells, len(spans))
            for shard, (start, stop) in enumerate(spans):
                examples = order[start:stop]
                x, y = test.batch(examples, device)
                piece = Shard(
                    start=start, stop=stop, examples=tuple(int(i) for i in examples), x=x, y=y, data_sha256=test.sha256
                )
                failed = _shard(store, subject, attack, cells, heads[number, shard], piece, plan, settings, registry,
                                reporter, outcome)  # fmt: skip
                if failed:
                    break
                reporter.shard_done(cells, shard + 1, len(spans), stop)
            reporter.attack_end(cells)
            if settings.fail_fast and outcome.failures:
                break
    finally:
        for line in store.damaged:
            reporter.warn(f"{line} (put aside, computed again)")
        outcome.records = store.compact(keys)


def _shard(
    store: RunStore, subject: _Ready, attack: Attack, cells: Sequence[Cell], heads: dict[int, records.Record],
    shard: Shard, plan: Plan, settings: Settings, registry: Registry, reporter: Reporter, outcome: Outcome,
) -> bool:  # fmt: skip
    """Do what is missing of one shard; whether any cell failed."""
    missing = {index: head for index, head in heads.items() if store.find(records.digest(head)) is None}
    outcome.reused += len(heads) - len(missing)
    if not missing:
        return False
    wanted = [cells[index] for index in missing]
    kind = plan.kinds[cells[0].threat.kind].spec
    start = time.time()

    def work() -> tuple[dict[int, Measurement | Refused], str]:
        if subject.stochastic is None:
            subject.stochastic = subject.judge.is_random(shard.x[:32])
        return evaluate(subject.judge, shard, attack, wanted, kind, settings.batch_size)

    tried = attempt(work)
    log = {"started": start, "seconds": tried.seconds, "batch_size": settings.batch_size, "host": platform.node()}
    log |= environment(shard.x.device)
    if tried.value is None:
        for head in missing.values():
            store.attempt(records.digest(head), {**log, "outcome": "error", "reason": tried.error, "trace": tried.trace})
        outcome.failures += [_failure(cell, tried.error) for cell in wanted]
        return True
    measured, printed = tried.value
    failed = False
    for (_, head), cell, (_, result) in zip(missing.items(), wanted, sorted(measured.items()), strict=True):
        key = records.digest(head)
        if isinstance(result, Refused):
            store.refuse(key, {**log, "identity": head, "reasons": result.reasons})
            outcome.failures.append(_failure(cell, str(result), "refused"))
            failed = True
            continue
        observed = dataclasses.asdict(result)
        if subject.stochastic:
            observed["flags"]["stochastic"] = 1
        if observed["distances"] is None:
            del observed["distances"]
        value = records.record(head, observed)
        store.commit(value)
        store.attempt(key, {**log, "outcome": "done", "printed": printed[-2000:]})
        outcome.computed += 1
        for line in registry.observe(value):
            reporter.warn(line)
    return failed


def _failure(cell: Cell, reason: str, state: str = "failed") -> Failure:
    return Failure(
        defense=cell.subject.defense, attack=cell.attack, threat=str(cell.threat), state=state, reason=reason
    )


def _document(plan: Plan, data: LoadedDataset, n: int, keys: list[str]) -> records.Record:
    """The frozen plan of a run: what it covers, and the key of every record it promises."""
    return {
        "schema": records.SCHEMA,
        "dataset": data.name,
        "data_sha256": data.part("test").sha256,
        "n": n,
        "seed": plan.seed,
        "defenses": [subject.defense for subject in plan.subjects],
        "attacks": sorted({f"{cell.attack} {cell.threat}" for cell in plan.cells}),
        "skipped": [dataclasses.asdict(skip) for skip in plan.skips],
        "expected": sorted(keys),
    }
