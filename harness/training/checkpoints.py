"""Trained weights on disk: how a training is identified, and its card, its weights and its unfinished state."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import torch
from torch import nn

from harness.data.dataset import LoadedDataset
from harness.errors import CheckpointError, PluginError
from harness.networks import tensors_sha256
from harness.registry.names import format_name, overrides, parse_name, plain
from harness.registry.registry import Registry
from harness.storage import atomic, weights
from harness.storage.canonical import digest, readable
from harness.storage.schema import Plain
from harness.training.context import SavedState
from harness.training.loop import group
from harness.types import Architecture, Defense, Recipe, Subject
from harness.version import __version__

CARD_SCHEMA = 1
CARD = "card.json"
STATE = "training.safetensors"
Origin = Literal["trained", "resumed", "reused", "given", "loaded"]


class TrainingIdentity(TypedDict):
    """What decides the weights that a training gives; its sha256 is the checkpoint's key, and `card.json` holds it.

    `uses`: revisions of the plugins that the defense builds on, absent where it stands alone.
    """

    uses: NotRequired[dict[str, list[str]]]
    schema: int
    defense: str
    defense_params: dict[str, Plain]
    defense_origin: str
    defense_revision: int
    arch: str
    arch_params: dict[str, Plain]
    arch_origin: str
    arch_revision: int
    dataset: str
    data_sha256: dict[str, str]
    recipe: dict[str, object]
    eps: str
    step: str
    train_seed: int


@dataclass(slots=True, kw_only=True)
class Checkpoint:
    """A deployed network, the sha256 over its trained and its deployed tensors, and how it came about.

    `network`: what was trained, before the defense wrapped it. `stand_ins`: what attacks may differentiate instead.
    """

    model: nn.Module
    network: nn.Module
    stand_ins: Mapping[str, nn.Module]
    sha256: str
    deployed_sha256: str
    origin: Origin
    path: Path | None = None


def identify(subject: Subject, recipe: Recipe, registry: Registry, data: LoadedDataset) -> TrainingIdentity:
    """Collect everything that decides what a training gives: the checkpoint's key, and the first part of its card."""
    defense = registry.entry(Defense, subject.defense)
    arch = registry.entry(Architecture, subject.arch)
    eps, step = budget(recipe, data)
    identity: TrainingIdentity = {
        "schema": CARD_SCHEMA,
        "defense": _trained_name(subject, defense.spec),
        "defense_params": defense.spec.of_training(plain_params(subject)),
        "defense_origin": defense.provider.origin,
        "defense_revision": defense.spec.revision,
        "arch": subject.arch,
        "arch_params": {name: plain(value) for name, value in subject.arch_params.items()},
        "arch_origin": arch.provider.origin,
        "arch_revision": arch.spec.revision,
        "dataset": data.name,
        "data_sha256": {part: data.part(part).sha256 for part in ("train", "validation")},
        "recipe": _of_weights(recipe),
        "eps": str(eps),
        "step": str(step),
        "train_seed": subject.train_seed,
    }
    if defense.spec.uses:
        identity["uses"] = _revisions(defense.spec.uses, registry)
    return identity


def budget(recipe: Recipe, data: LoadedDataset) -> tuple[Fraction, Fraction]:
    """Find the inner attack's eps and step, on the [0, 1] scale: the recipe's, otherwise the dataset's.

    Raises:
        PluginError: where neither says an eps.
    """
    eps = recipe.inner.eps if recipe.inner.eps is not None else data.spec.budgets.get("linf")
    if eps is None:
        raise PluginError(f"recipe '{recipe.name}' has no eps and dataset '{data.name}' no linf budget")
    return eps, recipe.inner.step if recipe.inner.step is not None else eps * data.spec.step


def plain_params(subject: Subject) -> dict[str, Any]:
    """Convert a subject's defense parameters to what its functions take: fractions and infinities as text."""
    return {name: plain(value) for name, value in subject.defense_params.items()}


def home(folder: Path, identity: TrainingIdentity) -> Path:
    """Name the folder of a checkpoint: defense, dataset and the start of its key."""
    return folder / f"{_file_name(identity['defense'])}-{_file_name(identity['dataset'])}-{digest(identity)[:12]}"


def stored_weights(folder: Path, selection: str) -> weights.Tensors:
    """Read the `last` or `best` weights of a finished training.

    Raises:
        CheckpointError: where they are damaged, or not those that the card names.
    """
    path = folder / f"{selection}.safetensors"
    tensors = weights.read(path)
    try:
        stated = str(json.loads((folder / CARD).read_bytes())["tensors_sha256"][selection])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CARD} is damaged ({error}). Remove {folder} to train again") from error
    if tensors_sha256(tensors) != stated:
        raise CheckpointError(f"weights {path}: the bytes are not those of its card. Remove {folder} to train again")
    return tensors


def unfinished(folder: Path) -> SavedState | None:
    """Read the state that a killed training left, or None where there is none.

    Raises:
        CheckpointError: where the file is no such state.
    """
    path = folder / STATE
    if not path.exists():
        return None
    note = weights.read_note(path)
    if not isinstance(note, dict):
        raise CheckpointError(f"{path} is no training state of the harness; remove it to train from the start")
    return SavedState(epochs=note["epochs"], history=note["history"], tensors=weights.read(path))


def keep_state(folder: Path, state: SavedState) -> None:
    """Write the state after an epoch, atomically."""
    weights.write(folder / STATE, state.tensors, {"epochs": state.epochs, "history": state.history})


def finish(folder: Path, identity: TrainingIdentity, selection: str, final: SavedState) -> None:
    """Write the last and the best weights and, last of all, the card that makes the checkpoint valid."""
    last = group(final.tensors, "model")
    best = group(final.tensors, "best") or last
    hashes = {name: weights.write(folder / f"{name}.safetensors", t) for name, t in (("last", last), ("best", best))}
    card = {
        **identity,
        "selection": selection,
        "tensors_sha256": hashes,
        "history": final.history,
        "versions": {"harness": __version__, "torch": torch.__version__},
    }
    atomic.replace(folder / CARD, readable(card))
    (folder / STATE).unlink(missing_ok=True)


def _of_weights(recipe: Recipe) -> dict[str, object]:
    """Write what of a recipe decides the weights."""
    fields = dataclasses.asdict(recipe)
    del fields["deploy_eps"]
    found: dict[str, object] = json.loads(json.dumps(fields, default=str))
    return found


def _trained_name(subject: Subject, defense: Defense) -> str:
    """Write the id of a defense without the parameters of deployment."""
    if not defense.deployment:
        return subject.defense
    defaults, values = defense.of_training(defense.params), defense.of_training(subject.defense_params)
    return format_name(parse_name(subject.defense)[0], overrides(defaults, values))


def _revisions(names: Iterable[str], registry: Registry) -> dict[str, list[str]]:
    """List every plugin of these names with the revision that it has now."""
    return {
        name: [f"{entry.provider.origin} {entry.spec.revision}" for entry in registry.named(name)] for name in names
    }


def _file_name(text: str) -> str:
    """Make a name safe in every file system; two that collide still differ in the key that follows."""
    safe = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-.")[:60]
    return safe or hashlib.sha256(text.encode()).hexdigest()[:12]
