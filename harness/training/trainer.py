"""From a subject to a network with weights: trained here, resumed, reused, loaded, or given by the user."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from harness.data.dataset import LoadedDataset, LoadedPart
from harness.errors import PluginError
from harness.evaluation.isolation import isolated
from harness.networks import tensors_sha256
from harness.planning.subjects import neighbour
from harness.registry.registry import Registry
from harness.reporter import Reporter
from harness.storage import atomic, weights
from harness.training.checkpoints import (
    CARD,
    Checkpoint,
    Origin,
    TrainingIdentity,
    budget,
    finish,
    home,
    identify,
    keep_state,
    plain_params,
    stored_weights,
    unfinished,
)
from harness.training.context import SavedState, TrainContext
from harness.training.loop import fit
from harness.training.peers import Peers
from harness.types import Architecture, Defense, Recipe, Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """Obtains the networks of subjects on one dataset. `folder`: where checkpoints are kept."""

    registry: Registry
    data: LoadedDataset
    folder: Path
    device: torch.device
    reporter: Reporter

    def obtain(self, subject: Subject) -> Checkpoint:
        """Reuse the checkpoint that matches the subject, or train it, going on where a killed training stopped.

        Raises:
            CheckpointError: for weights that are damaged or do not fit.
            PluginError: for a defense that cannot be trained this way.
        """
        defense = self.registry.entry(Defense, subject.defense).spec
        if subject.weights:
            given = Path(subject.weights)
            return self._deployed(self._with(subject, weights.read(given), subject.weights), subject, "given", given)
        if defense.load is not None:
            with isolated("load", subject.train_seed, collect=False):
                model = defense.load(data=self.data, **plain_params(subject))
            return self._deployed(model, subject, "loaded", None)
        recipe = subject.recipe
        if recipe is None:
            raise PluginError(
                f"defense '{defense.name}' has no recipe for '{self.data.name}': give --recipe or --weights"
            )
        identity = identify(subject, recipe, self.registry, self.data)
        folder = home(self.folder, identity)
        origin: Origin = "reused" if (folder / CARD).exists() else self._train(subject, recipe, folder, identity)
        chosen = folder / f"{recipe.selection}.safetensors"
        model = self._with(subject, stored_weights(folder, recipe.selection), str(chosen))
        return self._deployed(model, subject, origin, chosen)

    def beside(self, subject: Subject, defense: str, eps: float | None = None) -> nn.Module:
        """Obtain the trained network of another defense beside a subject; see `harness.planning.subjects.neighbour`."""
        return self.obtain(neighbour(subject, defense, self.data.spec, self.registry, eps)).network

    def build(self, subject: Subject) -> nn.Module:
        """Build a fresh network, the same for the same train seed, with what its defense adds to it."""
        arch = self.registry.entry(Architecture, subject.arch).spec
        defense = self.registry.entry(Defense, subject.defense).spec
        with isolated("init", subject.train_seed, collect=False):
            network: nn.Module = arch.build(self.data.shape, self.data.classes, **subject.arch_params)
            if defense.extend is not None:
                params = defense.of_training(plain_params(subject))
                network = defense.extend(network, shape=self.data.shape, classes=self.data.classes, **params)
        # Convolutions with few channels are twice as fast this way on a CPU, to images above all.
        return network.to(memory_format=torch.channels_last)

    def peers(self, subject: Subject, part: str, train: Callable[[], LoadedPart] | None = None) -> Peers:
        """Make what a subject may use of other plugins. `part`: the split whose images key the noise of attacks.

        During training only what the defense declares is handed out; an analysis, which brings its own `train`, is
        handed everything.
        """
        return Peers(
            registry=self.registry, dataset=self.data.spec, data_sha256=self.data.part(part).sha256,
            seed=subject.train_seed,
            uses=None if train is not None else self.registry.entry(Defense, subject.defense).spec.uses,
            network_of=partial(self.beside, subject), train=train or partial(self.data.part, "train"),
        )  # fmt: skip

    def context(self, subject: Subject, recipe: Recipe, reporter: Reporter | None = None) -> TrainContext:
        """Make what the `step` or `train` of a subject's defense is handed.

        Raises:
            PluginError: where neither the recipe nor the dataset says an eps.
        """
        eps, step = budget(recipe, self.data)
        told = reporter or self.reporter
        return TrainContext(
            recipe=recipe, seed=subject.train_seed, train=self.data.part("train"),
            validation=self.data.part("validation"), eps=float(eps), step=float(step), device=self.device,
            on_batch=told.train_batch, on_epoch=told.train_epoch, note=told.note, peers=self.peers(subject, "train"),
            cache_dir=self.folder.parent / "cache",
        )  # fmt: skip

    def _train(
        self, subject: Subject, recipe: Recipe, folder: Path, identity: TrainingIdentity
    ) -> Literal["trained", "resumed"]:
        """Train into a folder, from the state of a killed training where there is one."""
        defense = self.registry.entry(Defense, subject.defense).spec
        atomic.sweep(folder, time.time() - atomic.STALE_SECONDS)
        saved = unfinished(folder)
        if saved is not None:
            self.reporter.note(f"resuming {subject.defense} after epoch {saved.epochs} of {recipe.epochs}")
        final: list[SavedState] = [saved] if saved else []

        def save(state: SavedState) -> None:
            keep_state(folder, state)
            final.append(state)

        ctx = self.context(subject, recipe)
        ctx.saved, ctx.save_state = saved, save
        model = self.build(subject).to(self.device)
        params = defense.of_training(plain_params(subject))
        self.reporter.train_start(subject, saved.epochs if saved else 0)
        with isolated("train", subject.train_seed, collect=False):
            if defense.train is not None:
                defense.train(model, ctx, **params)
            elif defense.step is not None:
                fit(model, defense.step, ctx, params)
            else:
                raise PluginError(f"defense '{defense.name}' offers none of step, train and load")
        self.reporter.train_end()
        if not final:
            raise PluginError(
                f"defense '{defense.name}' trained without saving a state: call ctx.save_state every epoch"
            )
        finish(folder, identity, recipe.selection, final[-1])
        return "resumed" if saved else "trained"

    def _with(self, subject: Subject, tensors: weights.Tensors, origin: str) -> nn.Module:
        model = self.build(subject)
        weights.put(model, tensors, origin)
        return model

    def _deployed(self, model: nn.Module, subject: Subject, origin: Origin, path: Path | None) -> Checkpoint:
        """Wrap a trained network as its defense deploys it, and build its stand-ins."""
        defense, params = self.registry.entry(Defense, subject.defense).spec, plain_params(subject)
        sha256 = tensors_sha256(model.state_dict())
        model = model.to(self.device)
        model.eval()  # not chained: a user's own `train` may return nothing
        with isolated("deploy", subject.train_seed, collect=False):
            deployed = defense.wrap(model, **params) if defense.wrap is not None else model
            stand_ins = {stand_in.name: stand_in.build(model, **params).eval() for stand_in in defense.stand_ins}
        deployed = deployed.to(self.device)
        deployed.eval()
        return Checkpoint(
            model=deployed, network=model, stand_ins=stand_ins, sha256=sha256,
            deployed_sha256=tensors_sha256(deployed.state_dict()), origin=origin, path=path,
        )  # fmt: skip
