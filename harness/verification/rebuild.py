"""From what a record says of a subject back to the network that was judged, and to the images it was judged on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.data.dataset import LoadedDataset, LoadedPart
from harness.errors import BoardMismatch, CheckpointError, PluginError, UsageError
from harness.evaluation.judge import BrokenModel, Judge
from harness.models.deployment import Deployer, Deployment
from harness.planning.subjects import DEFENSE_OWN_NETWORK
from harness.registry.names import parse_name, plain, resolve
from harness.registry.registry import Entry, Registry
from harness.reporter import Reporter
from harness.storage.canonical import digest
from harness.storage.records import Record
from harness.training.trainer import Trainer
from harness.types import TRAINING_EPS, Architecture, Dataset, Defense, Subject, Value, parse_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """A subject that is ready to be attacked again, and its dataset."""

    subject: Subject
    ready: Deployment
    data: LoadedDataset

    @property
    def judge(self) -> Judge:
        """Of what is deployed."""
        return self.ready.judge

    @property
    def test(self) -> LoadedPart:
        """The test images."""
        return self.data.part("test")


def rebuilt(
    subject: Record, weights: Path | None, registry: Registry, data_root: Path, device: torch.device
) -> Rebuilt:
    """A subject as it was judged; `weights`: the file with what was trained, unless it is loaded.

    `subject`: the fields `harness.witnesses.coverage.SUBJECT_FIELDS` of a record's identity.

    Raises:
        UsageError: where a plugin is missing, or is not the one of the record.
        BoardMismatch: where images or weights are others than those of the record.
        CheckpointError, DataError: where they cannot be read.
    """
    name, colon, _ = subject["dataset"].partition(":")
    if colon:
        raise UsageError(f"records do not say where the folder of dataset '{subject['dataset']}' is")
    data = LoadedDataset(registry.get(Dataset, name).spec, name, data_root)
    test = data.part("test")
    if test.sha256 != subject["data_sha256"]:
        raise BoardMismatch(f"dataset '{name}': the test images here are not those of the records (another sha256)")
    planned = _subject(subject, weights, registry)
    trainer = Trainer(registry=registry, data=data, folder=Path(), device=device, reporter=Reporter())
    ready = Deployer(trainer).deploy(planned)
    found = {
        "weights_sha256": ready.provenance.weights_sha256,
        "deployed_sha256": ready.provenance.deployed_sha256,
    }
    for field, sha256 in found.items():
        if sha256 != subject[field]:
            raise BoardMismatch(
                f"weights {weights or subject['defense']}: {field} is {sha256[:12]}, records say {subject[field][:12]}"
            )
    return Rebuilt(subject=planned, ready=ready, data=data)


class Rebuilder:
    """Rebuilds each subject of a verified folder once. What should be had and cannot goes to the folder's problems.

    `weights`: subject -> the file with what was trained, or None.
    """

    def __init__(
        self, weights: Callable[[Record], Path | None], problems: list[str], registry: Registry, data_root: Path,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.weights, self.problems = weights, problems
        self.registry, self.data_root, self.device = registry, data_root, device
        self._found: dict[str, Rebuilt | str] = {}
        self._files: dict[str, Path | None] = {}

    def get(self, subject: Record) -> Rebuilt | str:
        """A subject, or in a line why it cannot be had: a problem where its weights are there.

        Raises:
            DataError: where the dataset cannot be read.
        """
        key = digest(subject)
        if key not in self._found:
            self._found[key] = self._get(subject)
        return self._found[key]

    def has(self, subject: Record) -> bool:
        """Whether the weights of a subject are here, or its defense, if it is installed, brings them."""
        if self._file(subject) is not None:
            return True
        try:
            return self.registry.entry(Defense, subject["defense"]).spec.load is not None
        except UsageError:
            return False

    def _file(self, subject: Record) -> Path | None:
        """The weights of a subject; looked for once, as a run has to read every card."""
        key = digest(subject)
        if key not in self._files:
            self._files[key] = self.weights(subject)
        return self._files[key]

    def _get(self, subject: Record) -> Rebuilt | str:
        weights = self._file(subject)
        try:
            return rebuilt(subject, weights, self.registry, self.data_root, self.device)
        except (UsageError, PluginError, CheckpointError, BoardMismatch, BrokenModel) as error:
            if weights is not None or isinstance(error, BoardMismatch):
                self.problems.append(f"{subject['defense']}, {subject['arch']}, {subject['recipe']}: {error}")
            return str(error).splitlines()[0]


def _subject(head: Record, weights: Path | None, registry: Registry) -> Subject:
    defense = registry.entry(Defense, head["defense"])
    _same(head, "defense", defense)
    params = _params("defense", head, defense.spec.params)
    arch_params: dict[str, Value] = {}
    if head["arch"] != DEFENSE_OWN_NETWORK:
        arch = registry.entry(Architecture, head["arch"])
        _same(head, "arch", arch)
        arch_params = _params("arch", head, arch.spec.params)
    loaded = defense.spec.load is not None
    if weights is None and not loaded:
        raise UsageError(f"the weights {head['weights_sha256'][:12]} of {head['defense']} are not there")
    return Subject(
        defense=head["defense"], defense_params=params, arch=head["arch"], arch_params=arch_params, recipe=None,
        train_seed=head["train_seed"], weights="" if loaded else str(weights),
    )  # fmt: skip


def _same(head: Record, noun: str, entry: Entry[Any]) -> None:
    """Compare plugin and revision with those of the record."""
    installed = (entry.provider.origin, entry.spec.revision)
    recorded = (head[f"{noun}_origin"], head[f"{noun}_revision"])
    if installed != recorded:
        raise UsageError(
            f"{noun} '{head[noun]}' is revision {installed[1]} of {installed[0]} here, "
            f"records say revision {recorded[1]} of {recorded[0]}"
        )


def _params(noun: str, head: Record, defaults: Any) -> dict[str, Value]:
    """The parameters that the id stands for; what the planner put in is taken from the record."""
    name, given = parse_name(head[noun])
    recorded = head[f"{noun}_params"]
    params = resolve(noun, name, defaults, given)
    params = {
        key: parse_number(str(recorded.get(key))) if value == TRAINING_EPS else value for key, value in params.items()
    }
    if {key: plain(value) for key, value in params.items()} != recorded:
        raise UsageError(f"{noun} '{head[noun]}' has other parameters here than in the records")
    return params
