"""From what a record says of a subject back to the network that was judged, and to the images it was judged on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harness import checkpoints
from harness.data import LoadedDataset, LoadedPart
from harness.errors import BoardMismatch, UsageError
from harness.judge import Judge
from harness.names import parse_name, plain, resolve
from harness.records import Record
from harness.registry import Entry, Registry
from harness.reporter import Reporter
from harness.subjects import DEFENSE_OWN_NETWORK
from harness.types import TRAINING_EPS, Architecture, Dataset, Defense, Subject, Value, parse_number


def rebuilt(
    subject: Record, weights: Path | None, registry: Registry, data_root: Path, device: torch.device
) -> tuple[Judge, LoadedPart]:
    """The judge of a subject and its test images; `weights`: the file with what was trained, unless it is loaded.

    `subject`: the fields `harness.breaks.SUBJECT_FIELDS` of a record's identity.

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
    ready = checkpoints.obtain(_subject(subject, weights, registry), registry, data, Path(), device, Reporter())
    found = {"weights_sha256": ready.sha256, "deployed_sha256": ready.deployed_sha256}
    for field, sha256 in found.items():
        if sha256 != subject[field]:
            raise BoardMismatch(
                f"weights {weights or subject['defense']}: {field} is {sha256[:12]}, records say {subject[field][:12]}"
            )
    return Judge(ready.model, data.classes, data.shape, device), test


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
