"""Everything that a run needs before its first attack: networks, what attacks ask for, and who owes which record."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial

from harness.data.dataset import LoadedDataset, shards
from harness.errors import CheckpointError
from harness.evaluation.attempt import attempt
from harness.evaluation.context import Supplies
from harness.evaluation.evaluate import AttackRun
from harness.evaluation.judge import REVISION as JUDGE_REVISION
from harness.models.deployment import Deployer, Deployment
from harness.planning.plan import Plan
from harness.registry.registry import Registry
from harness.reporter import Reporter
from harness.running.job import AnalysisJob, AttackJob
from harness.running.outcome import Failure, Outcome, Settings
from harness.storage.records import analysis_identity, cell_identity
from harness.storage.run_folder import Answers
from harness.types import Analysis, Attack, Cell, Subject


class Obtained:
    """The networks of a plan's subjects; one that cannot be had fails its own cells only.

    `absent`: what could not be had, so that the run cannot be complete. `n`: how many images are attacked. `ready`: for
    each subject its network, or None.

    Raises:
        CheckpointError: where weights that the user gave cannot be used.
    """

    def __init__(
        self, plan: Plan, registry: Registry, settings: Settings, deployer: Deployer, reporter: Reporter,
        outcome: Outcome,
    ) -> None:  # fmt: skip
        self.plan, self.registry, self.settings = plan, registry, settings
        self.deployer, self.outcome = deployer, outcome
        self.absent: list[str] = []
        test = self.data.part("test")
        self.n = plan.images(len(test))
        outcome.data_sha256 = test.sha256
        for note in test.split.notes:
            reporter.warn(note)
        self.ready: list[Deployment | None] = []
        for subject in plan.subjects:
            tried = attempt(partial(deployer.deploy, subject), but=(CheckpointError,) if subject.weights else ())
            if tried.value is None:
                self.absent.append(subject.defense)
                reporter.warn(f"{subject.defense}: {tried.error}")
                outcome.failures += [
                    Failure.of(cell, tried.error, tried.state) for cell in plan.cells if cell.subject == subject
                ]
            else:
                outcome.probes[subject.defense] = tried.value.probes
            self.ready.append(tried.value)

    @property
    def data(self) -> LoadedDataset:
        """The dataset of the run, loaded when first asked for."""
        return self.deployer.data

    def answers(self) -> Iterator[tuple[Subject, Answers]]:
        """List what the user's own networks answer to the canaries."""
        for subject, ready in zip(self.plan.subjects, self.ready, strict=True):
            if ready is not None and (answers := ready.answers) is not None:
                yield subject, answers

    def attack_jobs(self) -> Iterator[AttackJob]:
        """Make one job for each group of cells whose network, and whatever their attack asks for, is there."""
        for cells in self.plan.groups:
            ready = self.ready[self.plan.subjects.index(cells[0].subject)]
            if ready is None:
                continue
            entries = [self.registry.entry(Attack, cell.attack) for cell in cells]
            tried = attempt(partial(self._supply, cells[0], entries[0].spec, ready))
            if tried.value is None:
                self.outcome.failures += [Failure.of(cell, tried.error) for cell in cells]
                self.absent.append(f"what {cells[0].attack} needs on {cells[0].subject.defense}")
                continue
            supplies, hashes = tried.value
            owed = {
                (start, stop): [
                    cell_identity(
                        cell, entry.spec, entry.provider.origin, ready.provenance, JUDGE_REVISION, start, stop, hashes,
                        self.plan.kinds[cell.threat.kind].spec,
                    )
                    for cell, entry in zip(cells, entries, strict=True)
                ]
                for start, stop in shards(self.n)
            }  # fmt: skip
            run = AttackRun(
                judge=ready.judge, attack=entries[0].spec, cells=cells, supplies=supplies,
                kind=self.plan.kinds[cells[0].threat.kind].spec, batch=self.settings.batch_size,
            )  # fmt: skip
            attacks, alive = tuple(entry.spec for entry in entries), list(range(len(cells)))
            yield AttackJob(run=run, attacks=attacks, ready=ready, owed=owed, alive=alive)

    def analysis_jobs(self) -> Iterator[AnalysisJob]:
        """Make one job for each analysis of a subject whose network is there."""
        for planned in self.plan.analyses:
            ready = self.ready[self.plan.subjects.index(planned.subject)]
            if ready is not None:
                entry = self.registry.entry(Analysis, planned.analysis)
                owed = analysis_identity(
                    planned.subject, planned.analysis, planned.params, entry.spec, entry.provider.origin,
                    ready.provenance, self.n, self.plan.seed,
                )  # fmt: skip
                yield AnalysisJob(planned=planned, analysis=entry.spec, ready=ready, owed=owed)

    def _supply(self, cell: Cell, attack: Attack, ready: Deployment) -> tuple[Supplies, dict[str, str]]:
        """Get what an attack asks for besides the model, and the sha256 of each."""
        cache = self.settings.output / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        supplies, hashes = Supplies(cache_dir=cache, stand_ins=ready.checkpoint.stand_ins), {}
        if cell.surrogate is not None:
            network, hashes["surrogate"] = self.deployer.surrogate(cell.surrogate)
            supplies = dataclasses.replace(supplies, surrogate=network)
        if "train_images" in attack.needs:
            train = self.data.part("train")
            hashes["train_images"] = train.sha256
            supplies = dataclasses.replace(supplies, train=train)
        return supplies, hashes
