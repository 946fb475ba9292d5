"""The hooks a plugin may implement. Each returns values; none is handed a registry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pluggy

from harness.types import Analysis, Architecture, Attack, Dataset, Defense, ThreatKind

hookspec = pluggy.HookspecMarker("harness")
hookimpl = pluggy.HookimplMarker("harness")


@hookspec
def harness_attacks() -> Iterable[Attack]:
    """Attacks to offer."""
    raise AssertionError("a specification is never called")


@hookspec
def harness_defenses() -> Iterable[Defense]:
    """Defenses to offer."""
    raise AssertionError("a specification is never called")


@hookspec
def harness_datasets() -> Iterable[Dataset]:
    """Datasets to offer."""
    raise AssertionError("a specification is never called")


@hookspec
def harness_architectures() -> Iterable[Architecture]:
    """Network architectures to offer."""
    raise AssertionError("a specification is never called")


@hookspec
def harness_threat_models() -> Iterable[ThreatKind]:
    """Kinds of threat models, with the code that verifies membership."""
    raise AssertionError("a specification is never called")


@hookspec
def harness_analyses() -> Iterable[Analysis]:
    """Measurements of defenses besides their accuracy."""
    raise AssertionError("a specification is never called")


@hookspec
def harness_record(record: Mapping[str, object]) -> None:
    """Observe a record after it was stored. What is raised here is reported and changes nothing."""
    raise AssertionError("a specification is never called")
