"""A subject made ready to be attacked: its network under a judge, where it comes from, and what was seen of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from torch import nn

from harness.data.dataset import LoadedPart
from harness.errors import NotApplicable
from harness.evaluation.judge import Judge
from harness.evaluation.measurement import Measurement
from harness.evaluation.probes import probe
from harness.models.analysis import AnalysisContext
from harness.planning.subjects import DEFENSE_OWN_NETWORK
from harness.reporter import Reporter
from harness.storage import records
from harness.storage.schema import CellObserved
from harness.training.checkpoints import Checkpoint, plain_params
from harness.training.trainer import Trainer
from harness.types import Architecture, Attack, Defense, Subject

PROBED = 100
"""How many images, the first of the fixed order, a network is probed with before any attack."""


@dataclass(slots=True, kw_only=True)
class Deployment:
    """A subject whose network is there, under a judge. `probes`: what was measured of it before any attack."""

    judge: Judge
    checkpoint: Checkpoint
    provenance: records.Provenance
    flags: dict[str, float]
    probes: dict[str, float]

    def observed(self, measured: Measurement, attack: Attack) -> CellObserved:
        """Put the observed part of a record together: of one cell on one shard, and of the network before."""
        flags = measured.flags | self.flags | ({"as_published": 1} if attack.as_published else {})
        observed: CellObserved = {
            "n": measured.n, "clean": measured.clean, "raw": measured.raw, "last": measured.last, "any": measured.any,
            "forwards": measured.forwards, "backwards": measured.backwards, "flags": flags, "probes": self.probes,
        }  # fmt: skip
        if measured.distances is not None:
            observed["distances"] = measured.distances
        if measured.details:
            observed["details"] = measured.details
        return observed


class Deployer:
    """Obtains networks for the subjects of one run, each surrogate once."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.registry, self.data, self.device = trainer.registry, trainer.data, trainer.device
        self._surrogates: dict[str, Checkpoint] = {}

    def deploy(self, subject: Subject) -> Deployment:
        """Train, reuse or load the network of a subject, put it under a judge, and probe it.

        Raises:
            CheckpointError: for weights that are damaged or do not fit.
            PluginError: for a defense that cannot be trained this way.
            InvalidModel: where what is deployed answers nonsense.
        """
        found = self._obtain(subject, subject.defense)
        test = self.data.part("test")
        defense = self.registry.entry(Defense, subject.defense)
        own = subject.arch == DEFENSE_OWN_NETWORK
        arch = None if own else self.registry.entry(Architecture, subject.arch)
        provenance = records.Provenance(
            dataset=self.data.name, data_sha256=test.sha256, split_size=len(test),
            weights_sha256=found.sha256, deployed_sha256=found.deployed_sha256,
            defense_origin=defense.provider.origin, defense_revision=defense.spec.revision,
            mandatory=defense.spec.mandatory, arch_origin=arch.provider.origin if arch else defense.provider.origin,
            arch_revision=arch.spec.revision if arch else defense.spec.revision,
            votes=defense.spec.votes if defense.spec.stochastic else 1, gated=defense.spec.gated,
        )  # fmt: skip
        judge = Judge(found.model, self.data.classes, self.data.shape, self.device, provenance.votes)
        x, y = test.batch(self.data.order()[:PROBED], self.device)
        probes = probe(judge, x, y)
        random = judge.stochastic or defense.spec.stochastic
        return Deployment(
            judge=judge, checkpoint=found, provenance=provenance, flags={"stochastic": 1} if random else {},
            probes=probes,
        )  # fmt: skip

    def analysis_context(self, subject: Subject, ready: Deployment, n: int) -> AnalysisContext:
        """Make what an analysis of a subject is handed, for the first n test images of the fixed order."""
        found, params = ready.checkpoint, plain_params(subject)
        defense = self.registry.entry(Defense, subject.defense).spec
        step = partial(defense.step, **defense.of_training(params)) if defense.step is not None else None

        def training_images() -> LoadedPart:
            # The weights of a recipe say which they are; a record of given weights does not.
            if subject.recipe is None:
                raise NotApplicable("a network with given weights brings no training images")
            return self.data.part("train")

        recipe = subject.recipe
        training = self.trainer.context(subject, recipe, Reporter()) if recipe is not None else None
        peers = self.trainer.peers(subject, "test", training_images)
        return AnalysisContext(
            model=found.model, network=found.network, stand_ins=found.stand_ins, defense_params=params,
            test=self.data.part("test"), examples=self.data.order()[:n], device=self.device, peers=peers,
            training=training, step=step, untrained=partial(self.trainer.build, subject),
        )  # fmt: skip

    def surrogate(self, subject: Subject) -> tuple[nn.Module, str]:
        """Obtain the network that a transfer attack crafts on, and the sha256 of its deployed tensors."""
        key = str(subject)
        if key not in self._surrogates:
            self._surrogates[key] = self._obtain(subject, f"surrogate {subject.defense} (seed {subject.train_seed})")
        return self._surrogates[key].model, self._surrogates[key].deployed_sha256

    def _obtain(self, subject: Subject, label: str) -> Checkpoint:
        start = time.perf_counter()
        found = self.trainer.obtain(subject)
        seconds = f" in {time.perf_counter() - start:.0f} s" if found.origin in ("trained", "resumed") else ""
        where = f" ({found.path})" if found.path else ""
        self.trainer.reporter.note(f"{label}: weights {found.origin}{seconds}, sha256 {found.sha256[:12]}{where}")
        return found
