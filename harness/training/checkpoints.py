"""From a subject to a network with weights: trained here, resumed, reused, or given by the user."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from harness import __version__
from harness.data.dataset import LoadedDataset
from harness.errors import CheckpointError, PluginError
from harness.evaluation.isolation import isolated
from harness.planning.subjects import neighbour
from harness.registry.names import format_name, overrides, parse_name, plain
from harness.registry.registry import Registry
from harness.reporter import Reporter
from harness.storage import atomic, weights
from harness.storage.canonical import digest, readable
from harness.storage.weights import tensors_sha256
from harness.training.context import SavedState
from harness.training.loop import fit, group
from harness.training.setup import budget, build, plain_params, training_context
from harness.types import Architecture, Defense, Recipe, Subject

CARD_SCHEMA = 1


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
    origin: Literal["trained", "resumed", "reused", "given", "loaded"]
    path: Path | None = None


def obtain(
    subject: Subject, registry: Registry, data: LoadedDataset, folder: Path, device: torch.device, reporter: Reporter
) -> Checkpoint:
    """Reuse the checkpoint that matches the subject, or train it, going on where a killed training stopped.

    Raises:
        CheckpointError: for weights that are damaged or do not fit.
        PluginError: for a defense that cannot be trained this way.
    """
    defense = registry.entry(Defense, subject.defense).spec
    params = plain_params(subject)
    if subject.weights:
        model = build(subject, registry, data)
        weights.put(model, weights.read(Path(subject.weights)), subject.weights)
        return _ready(model, subject, defense, params, "given", Path(subject.weights), device)
    if defense.load is not None:
        with isolated("load", subject.train_seed, collect=False):
            model = defense.load(data=data, **params)
        return _ready(model, subject, defense, params, "loaded", None, device)
    if subject.recipe is None:
        raise PluginError(f"defense '{defense.name}' has no recipe for '{data.name}': give --recipe or --weights")
    identity = identify(subject, subject.recipe, registry, data)
    home = folder / f"{_file_name(identity['defense'])}-{_file_name(data.name)}-{digest(identity)[:12]}"
    origin: Literal["trained", "resumed", "reused"] = "reused"
    if not (home / "card.json").exists():
        origin = _train(subject, subject.recipe, registry, defense, data, home, identity, device, reporter)
    chosen = home / f"{subject.recipe.selection}.safetensors"
    tensors = weights.read(chosen)
    if tensors_sha256(tensors) != _stated_sha256(home / "card.json", subject.recipe.selection):
        raise CheckpointError(f"weights {chosen}: the bytes are not those of its card. Remove {home} to train again")
    model = build(subject, registry, data)
    weights.put(model, tensors, str(chosen))
    return _ready(model, subject, defense, params, origin, chosen, device)


def neighbouring(
    subject: Subject, defense: str, registry: Registry, data: LoadedDataset, folder: Path, device: torch.device,
    reporter: Reporter,
) -> nn.Module:  # fmt: skip
    """The trained network of another defense beside a subject; see `harness.planning.subjects.neighbour`."""
    return obtain(neighbour(subject, defense, registry), registry, data, folder, device, reporter).network


def identify(subject: Subject, recipe: Recipe, registry: Registry, data: LoadedDataset) -> dict[str, Any]:
    """Everything that decides what a training gives: the checkpoint's key, and the head of its card."""
    defense = registry.entry(Defense, subject.defense)
    arch = registry.entry(Architecture, subject.arch)
    eps, step = budget(recipe, data)
    # Absent where there is nothing, so that defenses that stand alone keep their keys.
    uses = {"uses": _revisions(defense.spec.uses, registry)} if defense.spec.uses else {}
    return {
        **uses,
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
        "recipe": json.loads(json.dumps(dataclasses.asdict(recipe), default=str)),
        "eps": str(eps),
        "step": str(step),
        "train_seed": subject.train_seed,
    }


def _train(
    subject: Subject, recipe: Recipe, registry: Registry, defense: Defense, data: LoadedDataset, home: Path,
    identity: dict[str, Any], device: torch.device, reporter: Reporter,
) -> Literal["trained", "resumed"]:  # fmt: skip
    state_file = home / "training.safetensors"
    atomic.sweep(home, time.time() - atomic.STALE_SECONDS)
    saved = _saved(state_file)
    if saved is not None:
        reporter.note(f"resuming {subject.defense} after epoch {saved.epochs} of {recipe.epochs}")

    def save(state: SavedState) -> None:
        weights.write(state_file, state.tensors, {"epochs": state.epochs, "history": state.history})
        final.append(state)

    final: list[SavedState] = [saved] if saved else []
    ctx = training_context(
        subject, recipe, registry, data, home.parent, device, reporter,
        lambda other: neighbouring(subject, other, registry, data, home.parent, device, reporter),
    )  # fmt: skip
    ctx.saved, ctx.save_state = saved, save
    model = build(subject, registry, data).to(device)
    params = defense.of_training(plain_params(subject))
    reporter.train_start(subject, saved.epochs if saved else 0)
    with isolated("train", subject.train_seed, collect=False):
        if defense.train is not None:
            defense.train(model, ctx, **params)
        elif defense.step is not None:
            fit(model, defense.step, ctx, params)
        else:
            raise PluginError(f"defense '{defense.name}' offers none of step, train and load")
    reporter.train_end()
    if not final:
        raise PluginError(f"defense '{defense.name}' trained without saving a state: call ctx.save_state every epoch")
    last = group(final[-1].tensors, "model")
    best = group(final[-1].tensors, "best") or last
    hashes = {name: weights.write(home / f"{name}.safetensors", t) for name, t in (("last", last), ("best", best))}
    card = {
        **identity,
        "selection": recipe.selection,
        "tensors_sha256": hashes,
        "history": final[-1].history,
        "versions": {"harness": __version__, "torch": torch.__version__},
    }
    atomic.replace(home / "card.json", readable(card))
    state_file.unlink(missing_ok=True)
    return "resumed" if saved else "trained"


def _saved(path: Path) -> SavedState | None:
    if not path.exists():
        return None
    note = weights.read_note(path)
    if not isinstance(note, dict):
        raise CheckpointError(f"{path} is no training state of the harness; remove it to train from the start")
    return SavedState(epochs=note["epochs"], history=note["history"], tensors=weights.read(path))


def _stated_sha256(card: Path, selection: str) -> str:
    try:
        return str(json.loads(card.read_bytes())["tensors_sha256"][selection])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{card} is damaged ({error}). Remove {card.parent} to train again") from error


def _ready(
    model: nn.Module, subject: Subject, defense: Defense, params: dict[str, Any], origin: Any, path: Path | None,
    device: torch.device,
) -> Checkpoint:  # fmt: skip
    sha256 = tensors_sha256(model.state_dict())
    model = model.to(device).eval()
    with isolated("deploy", subject.train_seed, collect=False):
        deployed = defense.wrap(model, **params) if defense.wrap is not None else model
        stand_ins = {stand_in.name: stand_in.build(model, **params).eval() for stand_in in defense.stand_ins}
    return Checkpoint(
        model=deployed.to(device).eval(), network=model, stand_ins=stand_ins, sha256=sha256,
        deployed_sha256=tensors_sha256(deployed.state_dict()), origin=origin, path=path,
    )  # fmt: skip


def _trained_name(subject: Subject, defense: Defense) -> str:
    """The id of a defense without the parameters of deployment."""
    if not defense.deployment:
        return subject.defense
    defaults, values = defense.of_training(defense.params), defense.of_training(subject.defense_params)
    return format_name(parse_name(subject.defense)[0], overrides(defaults, values))


def _revisions(names: Iterable[str], registry: Registry) -> dict[str, list[str]]:
    """Every plugin of these names with the revision that it has now."""
    return {
        name: [f"{entry.provider.origin} {entry.spec.revision}" for entry in registry.named(name)] for name in names
    }


def _file_name(text: str) -> str:
    """A name that is safe in every file system; two that collide still differ in the key that follows."""
    safe = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-.")[:60]
    return safe or hashlib.sha256(text.encode()).hexdigest()[:12]
