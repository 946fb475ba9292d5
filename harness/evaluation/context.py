"""What an attack may use besides the model, for one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.data.seeds import Distribution, noise
from harness.errors import HarnessError, NotApplicable
from harness.evaluation.alone import OneByOne
from harness.evaluation.oracle import Oracle
from harness.networks import Classifier, stage_outputs

if TYPE_CHECKING:
    from torch import nn

    from harness.data.dataset import LoadedPart
    from harness.types import Images

__all__ = ["AttackContext", "Supplies"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Supplies:
    """What a run offers to attacks that ask for it: see `Attack.needs`.

    `stand_ins`: those of the defense under attack, by name. `train`: the training images. `deadline`: on the monotonic
    clock.
    """

    surrogate: nn.Module | None = None
    stand_ins: Mapping[str, nn.Module] = field(default_factory=dict)
    train: LoadedPart | None = None
    cache_dir: Path | None = None
    deadline: float | None = None


class AttackContext:
    """What an attack may use besides the model, handed to it as `ctx` for one batch.

    `steps_wanted`: for an attack with a prefix parameter, every value that a snapshot is wanted for, ascending.
    `cache_dir`: a folder to keep files in, or None. `deadline`: when the model stops answering, on the monotonic clock,
    or None. `examples`: the indices (n,) of the images in their split. `costs`: value of the prefix parameter -> images
    that went forward and that a gradient came back to.
    """

    def __init__(
        self, oracle: Oracle, like: Images, *, seed: int, data_sha256: str, examples: Sequence[int],
        steps_wanted: Sequence[int] = (), supplies: Supplies | None = None,
    ) -> None:  # fmt: skip
        self.steps_wanted = tuple(steps_wanted)
        self._supplies = supplies or Supplies()
        self.cache_dir, self.deadline = self._supplies.cache_dir, self._supplies.deadline
        self.costs: dict[int, tuple[int, int]] = {}
        self.seed, self.data_sha256 = seed, data_sha256
        self.examples = tuple(int(example) for example in examples)
        self._oracle = oracle
        # Shape and device only: the images themselves are what verdicts are measured against.
        self._shape, self._device = tuple(like.shape[1:]), like.device
        self._base = (oracle.forwards, oracle.backwards)

    def noise(self, purpose: str, distribution: Distribution = "uniform") -> Images:
        """Draw noise (n, c, h, w), float32, keyed for each example of the batch: uniform on [-1, 1), or `normal`.

        Purposes by convention: `start:r` for restart r, `step:t`, `draw:j`, `target`, `style`. The same purpose gives
        the same numbers in every attack, so that attacks and defenses are compared on common noise.
        """
        drawn = noise(
            self._shape, seed=self.seed, data_sha256=self.data_sha256, examples=self.examples, purpose=purpose,
            distribution=distribution,
        )  # fmt: skip
        return torch.from_numpy(drawn).to(self._device)

    def surrogate(self) -> Oracle:
        """Return another network for the same data, with gradients, to craft on; its passes are not counted.

        Raises:
            HarnessError: where the attack does not declare that it needs one.
        """
        if self._supplies.surrogate is None:
            raise HarnessError("no surrogate at hand: declare needs=('surrogate',)")
        return Oracle(self._supplies.surrogate, "gradient", self.deadline)

    def stand_in(self, name: str) -> Oracle:
        """Return a stand-in of the defense under attack, with the access that the attack declares; its passes count.

        Raises:
            NotApplicable: where the defense publishes none of that name.
        """
        found = self._supplies.stand_ins.get(name)
        if found is None:
            raise NotApplicable(f"the defense publishes no stand-in '{name}'")
        return Oracle(found, self._oracle.access, self.deadline, self._oracle.count)

    def train_images(self, label: int) -> Images:
        """Return all training images of one class, (m, c, h, w) in the order of the split; m may be 0.

        Raises:
            HarnessError: where the attack does not declare that it needs them.
        """
        if self._supplies.train is None:
            raise HarnessError("no training images at hand: declare needs=('train_images',)")
        train = self._supplies.train
        return train.batch(np.flatnonzero(train.split.labels == label), self._device)[0]

    def features(self, x: Images) -> dict[str, torch.Tensor]:
        """Compute the outputs of the model's named stages, shallow to deep; one forward for each image, differentiable.

        Raises:
            HarnessError: where the attack has no gradient access.
            NotApplicable: where the model names no stages.
        """
        if self._oracle.access != "gradient":
            raise HarnessError("features need access='gradient'")
        inner = next((m for m in self._oracle.network.modules() if isinstance(m, Classifier)), None)
        if inner is None:
            raise NotApplicable("the model is no harness.networks.Classifier, so its stages have no names")
        # A network that sees one image at a time leaves the outputs of one image at a time.
        alone = isinstance(self._oracle.network, OneByOne)
        found = []
        for part in [x[i : i + 1] for i in range(len(x))] if alone else [x]:
            with stage_outputs(inner) as outputs:
                self._oracle(part)
            found.append(outputs)
        return {name: torch.cat([outputs[name] for outputs in found]) for name in found[0]} if alone else found[0]

    def reached(self, steps: int) -> None:
        """Note that `steps` steps of a restart are done, which tells a snapshot's cost from that of the whole run.

        Call it in every restart: costs add up, and the largest of `steps_wanted` ends a restart.
        """
        before = self._base
        self.charge(steps)
        if steps != max(self.steps_wanted, default=steps):
            self._base = before

    def charge(self, steps: int) -> None:
        """Put the passes since a restart ended, or since the last charge, on the snapshot at `steps` alone."""
        forwards, backwards = self._oracle.forwards, self._oracle.backwards
        spent = self.costs.get(steps, (0, 0))
        self.costs[steps] = (spent[0] + forwards - self._base[0], spent[1] + backwards - self._base[1])
        self._base = (forwards, backwards)
