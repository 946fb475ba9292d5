"""The hooks a plugin may implement. Each returns values; none is handed a registry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pluggy

from harness.types import Analysis, Architecture, Attack, Dataset, Defense, ThreatKind

hookspec = pluggy.HookspecMarker("harness")
hookimpl = pluggy.HookimplMarker("harness")


@hookspec
def harness_attacks() -> Iterable[Attack]:
    """Return the attacks to offer."""
    raise AssertionError("a specification is never called")


@hookspec
def harness_defenses() -> Iterable[Defense]:
    """Return the defenses to offer."""
    raise AssertionError("a specification is never called")


@hookspec
def harness_datasets() -> Iterable[Dataset]:
    """Return the datasets to offer."""
    raise AssertionError("a specification is never called")


@hookspec
def harness_architectures() -> Iterable[Architecture]:
    """Return the network architectures to offer."""
    raise AssertionError("a specification is never called")


@hookspec
def harness_threat_models() -> Iterable[ThreatKind]:
    """Return the kinds of threat models to offer, with the code that verifies membership."""
    raise AssertionError("a specification is never called")


@hookspec
def harness_analyses() -> Iterable[Analysis]:
    """Return the analyses to offer: measurements of defenses besides their accuracy."""
    raise AssertionError("a specification is never called")


@hookspec
def harness_record(record: Mapping[str, object]) -> None:
    """Observe a record, of an attack or an analysis, after it was stored.

    What is raised here is reported and changes nothing.
    """
    raise AssertionError("a specification is never called")
