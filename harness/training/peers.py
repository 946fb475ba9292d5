"""What a defense in training may use of other plugins, by name and never by import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from harness.errors import PluginError
from harness.evaluation.call import pick, run_attack
from harness.evaluation.context import AttackContext, Supplies
from harness.evaluation.oracle import Oracle
from harness.planning.budgets import own_threat, with_step
from harness.planning.selection import select_attacks
from harness.registry.names import parse_name, plain, resolve
from harness.registry.registry import Registry
from harness.types import Dataset, Defense

if TYPE_CHECKING:
    from harness.data.dataset import LoadedPart
    from harness.types import Images, Labels

Craft = Callable[..., "Images"]
Loss = Callable[..., torch.Tensor]


@dataclass(slots=True, kw_only=True)
class Peers:
    """Other defenses and attacks, as a training sees them.

    `uses`: what the defense declares; nothing else is handed out, since its revisions are part of the checkpoint's
    key; None hands out everything. `network_of` trains or reuses the network of a defense id. `train`: reads the
    training images, for attacks that need them.
    """

    registry: Registry
    dataset: Dataset
    data_sha256: str
    seed: int
    uses: Sequence[str] | None
    network_of: Callable[[str], nn.Module]
    train: Callable[[], LoadedPart]
    _losses: dict[str, Loss] = field(default_factory=dict)

    def loss(self, defense: str) -> Loss:
        """The `step(model, x, y, ctx)` of a defense id such as `trades[inner=fgsm]`, with its parameters filled in.

        Raises:
            PluginError: where it is not declared, or has no step.
        """
        if defense not in self._losses:
            name, given = parse_name(defense)
            self._declared(name)
            spec = self.registry.get(Defense, name).spec
            if spec.step is None:
                raise PluginError(f"defense '{name}' has no step to train another network with")
            params = resolve("defense", name, spec.params, given)
            self._losses[defense] = partial(
                spec.step, **{key: plain(value) for key, value in spec.of_training(params).items()}
            )
        return self._losses[defense]

    def network(self, defense: str) -> nn.Module:
        """A trained network of a defense id, of the same architecture and recipe with the next seed: frozen, in eval
        mode, not to be changed.

        Raises:
            PluginError: where it is not declared.
        """
        self._declared(parse_name(defense)[0])
        return self.network_of(defense).eval().requires_grad_(False)

    def attack(self, name: str) -> Craft:
        """`craft(model, x, y, examples)` runs an attack on any network with the dataset's own budget, and returns its
        images as they are, unjudged. `examples` are indices in the split of the images, which key its noise.

        Raises:
            PluginError: where it is not declared.
        """
        self._declared(parse_name(name)[0])
        (selected,), _ = select_attacks([name], self.registry)
        attack = selected.attack
        own = [threat for kind in attack.threats if (threat := own_threat(kind, self.dataset, self.registry))]
        if not own:
            raise PluginError(f"attack '{name}' has no budget on {self.dataset.name}")
        params = with_step(selected.params, own[0], self.dataset.step)

        def craft(model: nn.Module, x: Images, y: Labels, examples: Sequence[int]) -> Images:
            supplies = Supplies(train=self.train() if "train_images" in attack.needs else None)
            oracle = Oracle(model, attack.access)
            ctx = AttackContext(
                oracle, x, seed=self.seed, data_sha256=self.data_sha256, examples=examples, supplies=supplies
            )
            returned, _ = run_attack(attack, oracle, x, y, own[0], ctx, params)
            return pick(attack, returned, 0, 0, None).last.detach()

        return craft

    def _declared(self, name: str) -> None:
        if self.uses is not None and name not in self.uses:
            raise PluginError(f"'{name}' is used in training but not declared: add it to uses=(...) of the defense")
