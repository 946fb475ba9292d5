"""What every analysis is held to, on the toy networks of the defenses that it is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch

from harness.api import Analysis, Defense
from harness.conformance import toys
from harness.conformance.report import CheckResult, NotApplicable, run_checks
from harness.conformance.toy_training import (
    DATASET,
    toy_context,
    toy_neighbour,
    toy_network,
    toy_params,
    toy_training_params,
    train_toy,
)
from harness.evaluation.oracle import fingerprint
from harness.models.analysis import AnalysisContext, measure
from harness.registry.discovery import discover
from harness.registry.names import default_value, plain
from harness.storage.schema import QuantityObserved
from harness.training.peers import Peers

UNPROTECTED = Defense(name="toy", step=lambda model, x, y, ctx: torch.nn.functional.cross_entropy(model(x), y))
"""The undefended toy that an analysis of every defense is tried on."""


def check_analysis(analysis: Analysis) -> list[CheckResult]:
    """Hold an analysis to every contract that applies to it.

    None applies where it is about certain defenses and none of them is installed.
    """
    return run_checks(analysis, ANALYSIS_CONTRACTS)


def _finite(analysis: Analysis) -> None:
    """Check that it gives at least one number, that every number is finite, and none is over no images."""
    for ctx in _contexts(analysis):
        found = _measured(analysis, ctx)
        assert found, "it gives no quantity"
        wrong = [name for name, quantity in found.items() if quantity["n"] < 0]
        assert not wrong, f"{', '.join(wrong)}: fewer images than none"
        empty = [name for name, quantity in found.items() if quantity["value"] is not None and not quantity["n"]]
        assert not empty, f"{', '.join(empty)}: a number over no images; a Quantity without any has value=None"
        assert any(quantity["value"] is not None for quantity in found.values()), "none of its quantities is a number"


def _same_twice(analysis: Analysis) -> None:
    """Check that two runs give the same quantities, whatever is drawn from global generators in between."""
    for ctx in _contexts(analysis):
        first = _measured(analysis, ctx)
        torch.rand(3), np.random.rand(3)
        again = _measured(analysis, ctx)
        differing = [name for name in first.keys() | again.keys() if first.get(name) != again.get(name)]
        assert not differing, f"{', '.join(sorted(differing))}: differs between two runs"


def _unchanged(analysis: Analysis) -> None:
    """Check that it leaves every network as it was: weights, modes, gradient flags, hooks."""
    for ctx in _contexts(analysis):
        networks = {"model": ctx.model, "network": ctx.network, **ctx.stand_ins}
        before = {name: fingerprint(network) for name, network in networks.items()}
        _measured(analysis, ctx)
        changed = [
            f"{name} ({part})"
            for name, network in networks.items()
            for part, value in fingerprint(network).items()
            if value != before[name][part]
        ]
        assert not changed, f"it changed {', '.join(changed)}"


ANALYSIS_CONTRACTS: dict[str, Callable[[Analysis], None]] = {
    "gives finite quantities": _finite,
    "same twice, whatever ran before": _same_twice,
    "leaves networks unchanged": _unchanged,
}


def _measured(analysis: Analysis, ctx: AnalysisContext) -> Mapping[str, QuantityObserved]:
    params = {name: plain(default_value(default)) for name, default in analysis.params.items()}
    return measure(analysis, ctx, params, 0)["quantities"]


def _contexts(analysis: Analysis) -> list[AnalysisContext]:
    """Make a context for each installed defense that the analysis is about, or for `UNPROTECTED` if it is about all.

    Raises:
        NotApplicable: where none of them is installed.
    """
    registry = discover()
    installed = {entry.spec.name: entry.spec for entry in registry.entries(Defense)}
    defenses = (
        [installed[name] for name in analysis.only_of if name in installed] if analysis.only_of else [UNPROTECTED]
    )
    if not defenses:
        raise NotApplicable(f"none of {', '.join(analysis.only_of)} is installed")
    return [_context(defense) for defense in defenses]


def _context(defense: Defense) -> AnalysisContext:
    network, params, test = _network(defense), toy_params(defense), toys.toy_part(n=48, seed=5)
    peers = Peers(
        registry=discover(), dataset=DATASET, data_sha256=test.sha256, seed=0, uses=None, network_of=toy_neighbour,
        train=toys.toy_part,
    )  # fmt: skip
    return AnalysisContext(
        model=(defense.wrap(network, **params) if defense.wrap else network).eval(), network=network,
        stand_ins={stand_in.name: stand_in.build(network, **params).eval() for stand_in in defense.stand_ins},
        defense_params=params, test=test, examples=np.arange(len(test)), device=torch.device("cpu"),  # type: ignore[arg-type]
        peers=peers, training=toy_context(defense),
        step=partial(defense.step, **toy_training_params(defense)) if defense.step else None,
        untrained=partial(toy_network, defense),
    )  # fmt: skip


def _network(defense: Defense) -> torch.nn.Module:
    """Train the defense's toy network and freeze it, in eval mode."""
    network = train_toy(defense)[2] if defense is UNPROTECTED else toy_neighbour(defense.name)
    return network.eval().requires_grad_(False)
