"""A subject made ready to be attacked: its network under a judge, where it comes from, and what was seen of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from harness.data.dataset import LoadedPart
from harness.errors import NotApplicable
from harness.evaluation.alone import OneByOne, batch_dependence
from harness.evaluation.judge import Judge
from harness.evaluation.measurement import Measurement
from harness.evaluation.probes import probe, slopes
from harness.models.analysis import AnalysisContext
from harness.networks import tensors_sha256
from harness.planning.subjects import DEFENSE_OWN_NETWORK
from harness.reporter import Reporter
from harness.storage import records
from harness.storage.run_folder import Answers
from harness.storage.schema import CellObserved
from harness.training.checkpoints import Checkpoint, plain_params
from harness.training.trainer import Trainer
from harness.types import Architecture, Attack, Defense, Subject

if TYPE_CHECKING:
    from harness.types import Images

PROBED = 100
"""How many images, the first of the fixed order, a network is probed with before any attack."""


@dataclass(slots=True, kw_only=True)
class Deployment:
    """A subject whose network is there, under a judge. `probes`: what was measured of it before any attack.

    `own`: it comes from a file or a module of the user's.
    """

    judge: Judge
    checkpoint: Checkpoint
    provenance: records.Provenance
    flags: dict[str, float]
    probes: dict[str, float]
    subject: Subject | None = None
    own: bool = False

    @property
    def answers(self) -> Answers | None:
        """What a network of the user's answers to the canaries, to be compared where its records are reused.

        None for others, and where a reseed does not bring the same answers again.
        """
        if self.subject is None or not self.own or not self.judge.repeatable:
            return None
        return {
            "network": records.network_key(self.subject, self.provenance),
            "device": self.judge.canaries.device.type if self.judge.stochastic else "",
            "logits": self.judge.answers.tolist(),
            "slopes": slopes(self.judge).tolist(),
            "slopes_on": self.judge.canaries.device.type,
        }

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
        brings_network = subject.arch == DEFENSE_OWN_NETWORK
        arch = None if brings_network else self.registry.entry(Architecture, subject.arch)
        x, y = test.batch(self.data.order()[:PROBED], self.device)
        found, judge, dependence = self._judged(found, x)
        random = judge.stochastic or defense.spec.stochastic
        # A plugin declares what is random by design; who brings a network of their own declares nothing.
        own = "@" in defense.provider.origin
        judge.votes = defense.spec.votes if defense.spec.stochastic or (own and judge.stochastic) else 1
        provenance = records.Provenance(
            dataset=self.data.name, data_sha256=test.sha256, split_size=len(test),
            weights_sha256=found.sha256, deployed_sha256=found.deployed_sha256,
            defense_origin=defense.provider.origin, defense_revision=defense.spec.revision,
            mandatory=defense.spec.mandatory, arch_origin=arch.provider.origin if arch else defense.provider.origin,
            arch_revision=arch.spec.revision if arch else defense.spec.revision,
            votes=judge.votes, gated=defense.spec.gated,
        )  # fmt: skip
        flags: dict[str, float] = {"stochastic": 1} if random else {}
        probes = probe(judge, x, y)
        if dependence:
            flags["batch_dependent"], probes["batch_dependence"] = 1, dependence
        self._note(subject, judge, dependence)
        return Deployment(
            judge=judge, checkpoint=found, provenance=provenance, flags=flags, probes=probes,
            subject=subject, own=own,
        )  # fmt: skip

    def _judged(self, found: Checkpoint, x: Images) -> tuple[Checkpoint, Judge, float]:
        """Put a network under a judge: alone with each image, where its answers depend on those beside it."""
        judge = Judge(found.model, self.data.classes, self.data.shape, self.device, real=x)
        dependence = batch_dependence(judge)
        if not dependence:
            return found, judge, 0.0
        alone = OneByOne(found.model)
        found = replace(
            found, model=alone, deployed_sha256=tensors_sha256(alone.state_dict()),
            stand_ins={name: OneByOne(stand_in).eval() for name, stand_in in found.stand_ins.items()},
        )  # fmt: skip
        return found, Judge(alone, self.data.classes, self.data.shape, self.device, real=x), dependence

    def _note(self, subject: Subject, judge: Judge, dependence: float) -> None:
        if dependence:
            self.trainer.reporter.warn(
                f"{subject.defense}: its answer for an image depends on the images beside it (by "
                f"{100 * dependence:.2g} % of the gap between logits); it is judged and attacked one image at a time, "
                "whatever --batch-size says"
            )
        if judge.votes > 1:
            self.trainer.reporter.note(
                f"{subject.defense}: its answers are random; the majority of {judge.votes} passes decides"
            )

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
