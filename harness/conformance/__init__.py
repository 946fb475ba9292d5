"""The contract tests, for first-party and third-party plugins alike: small networks, no download, seconds.

`check(name, registry)` is what `harness check NAME` prints. `check_attack`, `check_defense`, `check_dataset`,
`check_architecture` and `check_analysis` take a spec, so that a plugin's own tests can call them without a registry.
"""

from __future__ import annotations

from harness.conformance.analyses import check_analysis
from harness.conformance.attacks import check_attack
from harness.conformance.datasets import check_architecture, check_dataset
from harness.conformance.defenses import check_defense
from harness.conformance.report import CheckResult
from harness.errors import UsageError
from harness.registry.names import parse_name
from harness.registry.registry import Registry
from harness.types import Analysis, Architecture, Attack, Dataset, Defense, ThreatKind

__all__ = [
    "CheckResult",
    "check",
    "check_analysis",
    "check_architecture",
    "check_attack",
    "check_dataset",
    "check_defense",
]


def check(name: str, registry: Registry) -> list[CheckResult]:
    """Run the contract tests of every entry of that name.

    Raises:
        UnknownName: where there is none.
        UsageError: where only a threat kind has that name, as those have no contract tests.
    """
    results: list[CheckResult] = []
    for entry in registry.named(parse_name(name)[0]):
        if isinstance(entry.spec, Attack):
            results += check_attack(entry.spec, [kind.spec for kind in registry.entries(ThreatKind)])
        elif isinstance(entry.spec, Defense):
            results += check_defense(entry.spec)
        elif isinstance(entry.spec, Dataset):
            results += check_dataset(entry.spec)
        elif isinstance(entry.spec, Architecture):
            results += check_architecture(entry.spec)
        elif isinstance(entry.spec, Analysis):
            results += check_analysis(entry.spec)
    if not results:
        held = "attacks, defenses, datasets, networks and analyses"
        raise UsageError(f"'{name}' is a threat kind; contract tests are for {held}")
    return results
