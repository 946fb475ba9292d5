"""What a defense in training may use of other plugins, by name and never by import."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from harness.errors import PluginError, UsageError
from harness.evaluation.call import pick, run_attack
from harness.evaluation.context import AttackContext, Supplies
from harness.evaluation.oracle import Oracle
from harness.planning.budgets import own_threat, with_step
from harness.planning.selection import select_attacks
from harness.registry.names import parse_name, plain, resolve
from harness.registry.registry import Registry
from harness.types import Attack, Dataset, Defense, ThreatModel, Value

if TYPE_CHECKING:
    from harness.data.dataset import LoadedPart
    from harness.types import Images, Labels

Loss = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAttack:
    """An attack of another plugin, to be run on any network: `craft(model, x, y, examples)`.

    `identity`: what decides its images besides the network, the images and their labels; fit to key a cache by.
    """

    attack: Attack
    params: Mapping[str, Value]
    threat: ThreatModel
    seed: int
    data_sha256: str
    train: Callable[[], LoadedPart]
    identity: Mapping[str, object]

    def __call__(self, model: nn.Module, x: Images, y: Labels, examples: Sequence[int]) -> Images:
        """Attack a batch; return its final images (n, c, h, w) as they are, unjudged and detached.

        `examples`: the indices (n,) of the images in their split, which key the attack's noise.
        """
        supplies = Supplies(train=self.train() if "train_images" in self.attack.needs else None)
        oracle = Oracle(model, self.attack.access)
        ctx = AttackContext(
            oracle, x, seed=self.seed, data_sha256=self.data_sha256, examples=examples, supplies=supplies
        )
        returned, _ = run_attack(self.attack, oracle, x, y, self.threat, ctx, self.params)
        return pick(self.attack, returned, 0, 0, None).last.detach()


@dataclass(slots=True, kw_only=True)
class Peers:
    """Other defenses and attacks, as a training sees them.

    `uses`: what the defense declares; nothing else is handed out, since its revisions are part of the checkpoint's
    key; None hands out everything. `network_of(defense id, eps)` trains or reuses a network; eps None is the recipe's.
    `train`: reads the training images, for attacks that need them.
    """

    registry: Registry
    dataset: Dataset
    data_sha256: str
    seed: int
    uses: Sequence[str] | None
    network_of: Callable[[str, float | None], nn.Module]
    train: Callable[[], LoadedPart]
    _losses: dict[str, Loss] = field(default_factory=dict)

    def loss(self, defense: str) -> Loss:
        """Get the `step(model, x, y, ctx)` of a defense id such as `trades[inner=fgsm]`, with its parameters filled in.

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

    def network(self, defense: str, eps: float | None = None) -> nn.Module:
        """Get a trained network of a defense id: frozen, in eval mode, not to be changed.

        It has the architecture and the recipe of the subject, and the next seed. `eps`: of its inner attack, on the [0,
        1] scale, instead of the recipe's; the inner step scales with it.

        Raises:
            PluginError: where it is not declared.
        """
        self._declared(parse_name(defense)[0])
        return self.network_of(defense, eps).eval().requires_grad_(False)

    def attack(self, name: str, threat: str | ThreatModel | None = None) -> PeerAttack:
        """Get the attack of an id such as `pgd-20`, ready to be called on any network.

        `threat`: its budget, such as `linf:8/255`; by default the dataset's own.

        Raises:
            PluginError: where it is not declared, is not one attack, or has no budget here.
            UsageError: where it does not work under `threat`.
        """
        self._declared(parse_name(name)[0])
        found, _ = select_attacks([name], self.registry)
        if len(found) != 1:
            raise PluginError(f"'{name}' is {len(found)} attacks: name one")
        selected, attack = found[0], found[0].attack
        budget = self._budget(name, attack) if threat is None else _parsed(threat)
        if budget.kind not in attack.threats:
            known = ", ".join(attack.threats)
            raise UsageError(f"attack '{name}' does not work under {budget.kind}; it does under {known}")
        params = with_step(selected.params, budget, self.dataset.step)
        provider = self.registry.entry(Attack, selected.name).provider
        identity = {
            "attack": selected.name, "origin": provider.origin, "revision": attack.revision, "threat": str(budget),
            "params": {key: plain(value) for key, value in sorted(params.items())}, "seed": self.seed,
        }  # fmt: skip
        return PeerAttack(
            attack=attack, params=params, threat=budget, seed=self.seed, data_sha256=self.data_sha256, train=self.train,
            identity=identity,
        )  # fmt: skip

    def budget(self, kind: str) -> Fraction:
        """Get the dataset's budget of a threat kind, in the kind's unit.

        Raises:
            PluginError: where it has none.
        """
        own = own_threat(kind, self.dataset, self.registry)
        if own is None or own.eps is None:
            raise PluginError(f"dataset '{self.dataset.name}' has no {kind} budget")
        return own.eps

    def _budget(self, name: str, attack: Attack) -> ThreatModel:
        own = [threat for kind in attack.threats if (threat := own_threat(kind, self.dataset, self.registry))]
        if not own:
            raise PluginError(f"attack '{name}' has no budget on {self.dataset.name}")
        return own[0]

    def _declared(self, name: str) -> None:
        if self.uses is not None and name not in self.uses:
            raise PluginError(f"'{name}' is used in training but not declared: add it to uses=(...) of the defense")


def _parsed(threat: str | ThreatModel) -> ThreatModel:
    return ThreatModel.parse(threat) if isinstance(threat, str) else threat
