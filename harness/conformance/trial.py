"""An attack on toy networks and toy images, run and judged as in a benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from harness.conformance import toys
from harness.conformance.report import NotApplicable
from harness.evaluation.call import pick, run_attack
from harness.evaluation.context import AttackContext, Supplies
from harness.evaluation.evaluate import AttackRun, evaluate
from harness.evaluation.judge import Judge
from harness.evaluation.measurement import Measurement, Refused
from harness.evaluation.oracle import Oracle
from harness.registry import norms
from harness.registry.names import resolve
from harness.types import FROM_DATASET, Attack, Cell, Result, Subject, ThreatKind, ThreatModel, Value

if TYPE_CHECKING:
    from torch import nn

    from harness.types import Images, Labels

STEP_SHARE = Fraction(1, 4)
BUILT_IN = {kind.name: kind for kind in norms.harness_threat_models()}
NOBODY = Subject(defense="toy", defense_params={}, arch="toy", arch_params={}, recipe=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """An attack at its trial parameters, and the threat kinds by name that it may be tried under."""

    attack: Attack
    kinds: Mapping[str, ThreatKind]

    @classmethod
    def of(cls, attack: Attack, kinds: Iterable[ThreatKind] = ()) -> Trial:
        """Make a trial with the built-in threat kinds and the given ones."""
        return cls(attack=attack, kinds=BUILT_IN | {kind.name: kind for kind in kinds})

    def threats(self) -> list[ThreatModel]:
        """List the threat models to try: each known kind of the attack at its trial budget.

        Raises:
            NotApplicable: where no kind of it is known here, or none has a trial budget.
        """
        known = [self.kinds[name] for name in self.attack.threats if name in self.kinds]
        usable = [kind for kind in known if kind.trial is not None or not kind.bounded or kind.name == "none"]
        if not usable:
            raise NotApplicable(f"no trial budget for {' or '.join(self.attack.threats)}")
        return [ThreatModel(kind=kind.name, eps=kind.trial) for kind in usable]

    def linear(self, share: Fraction) -> list[tuple[nn.Module, Images, Labels, ThreatModel]]:
        """Make a linear problem for each norm of the attack: model, images, labels, and `share` of their exact radius.

        Raises:
            NotApplicable: where no radius is known, or the attack needs more than two classes.
        """
        norms = [name for name in self.attack.threats if name in toys.DUALS]
        if not norms:
            raise NotApplicable(f"no exact radius under {' or '.join(self.attack.threats)}")
        if self.attack.min_classes > 2:
            raise NotApplicable(f"it needs {self.attack.min_classes} classes, the linear model has 2")
        problems = [(name, *toys.linear_problem(name)) for name in norms]
        return [(m, x, y, ThreatModel(kind=name, eps=radius * share)) for name, m, x, y, radius in problems]

    def params(self, threat: ThreatModel) -> dict[str, Value]:
        """Resolve its trial parameters; a step that the dataset would decide is a quarter of this budget."""
        step = threat.eps * STEP_SHARE if threat.eps is not None else None
        values = resolve("attack", self.attack.name, self.attack.params, self.attack.trial)
        return {name: step if value == FROM_DATASET else value for name, value in values.items()}

    def measured(self, model: nn.Module, x: Images, y: Labels, threat: ThreatModel, classes: int) -> Measurement:
        """Attack images (n, c, h, w) with labels (n,) and judge the result as in a benchmark.

        Raises:
            AssertionError: where the images or the model are refused.
        """
        cell = Cell(subject=NOBODY, attack=self.attack.name, params=self.params(threat), threat=threat)
        judge, kind = Judge(model, classes, toys.SHAPE), self.kinds[threat.kind]
        run = AttackRun(
            judge=judge, attack=self.attack, cells=[cell], kind=kind, batch=len(x), supplies=self.supplies()
        )
        (result,) = evaluate(run, toys.shard(x, y)).results
        assert not isinstance(result, Refused), f"refused under {threat}: {result}"
        return result

    def run(self, model: nn.Module, x: Images, y: Labels, threat: ThreatModel, offset: int = 0) -> Result:
        """Run the attack on images (n, c, h, w) with labels (n,) and return its result unjudged.

        `offset`: the index of the first image, which keys the attack's noise.
        """
        oracle = Oracle(model, self.attack.access)
        ctx = self.context(oracle, x, offset=offset)
        returned, _ = run_attack(self.attack, oracle, x, y, threat, ctx, self.params(threat))
        return pick(self.attack, returned, 0, 0, None)

    def snapshots(
        self, model: nn.Module, x: Images, y: Labels, wanted: tuple[int, ...], more: Mapping[str, Value]
    ) -> tuple[dict[int, Result], dict[int, tuple[int, int]]]:
        """Run an attack with a prefix parameter once, at the longest wanted value.

        Returns the results by wanted value, and the costs (forwards, backwards) likewise. `more`: further parameters.
        """
        oracle, threat = Oracle(model, self.attack.access), self.threats()[0]
        ctx = self.context(oracle, x, wanted)
        params = {**self.params(threat), **more, str(self.attack.prefix): max(wanted)}
        returned, _ = run_attack(self.attack, oracle, x, y, threat, ctx, params)
        return {n: pick(self.attack, returned, n, max(wanted), self.attack.prefix) for n in wanted}, ctx.costs

    def context(self, oracle: Oracle, x: Images, wanted: tuple[int, ...] = (), offset: int = 0) -> AttackContext:
        """Make the `ctx` of a run on a batch (n, c, h, w); seed 0, examples from `offset` on."""
        examples = range(offset, offset + len(x))
        return AttackContext(
            oracle, x, seed=0, data_sha256=toys.TOY_SHA256, examples=examples, steps_wanted=wanted,
            supplies=self.supplies(),
        )  # fmt: skip

    def supplies(self) -> Supplies:
        """Supply what the attack declares that it needs: another tiny network, toy training images."""
        needs = self.attack.needs
        return Supplies(
            surrogate=toys.tiny_net(seed=7) if "surrogate" in needs else None,
            train=toys.toy_part() if "train_images" in needs else None,
        )
