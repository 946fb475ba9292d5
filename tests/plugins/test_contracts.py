"""Every installed plugin against every contract of its kind, one test for each pair, and the matrix of what ran."""

import functools
import os
from collections import Counter
from pathlib import Path

import pytest
import torchvision

from harness.conformance import analyses, attacks, check_dataset, datasets, defenses
from harness.conformance.report import CheckResult, run_checks
from harness.conformance.trial import Trial
from harness.registry import discovery
from harness.registry.registry import broken_line
from harness.types import Analysis, Architecture, Attack, Dataset, Defense, ThreatKind

REGISTRY = discovery.discover()
CONTRACTS = {
    Attack: tuple(attacks.CONTRACTS),
    Defense: tuple(defenses.CONTRACTS),
    Dataset: tuple(datasets.DATASET_CONTRACTS),
    Architecture: tuple(datasets.ARCHITECTURE_CONTRACTS),
    Analysis: tuple(analyses.ANALYSIS_CONTRACTS),
}
THREAT_KINDS = [entry.spec for entry in REGISTRY.entries(ThreatKind)]


def usable(kind):
    """Everything that runs and that a contract can hold.

    What has a measured defect is listed, and its own plugin's tests show the defect. A defense that only loads a
    network has nothing to train or to deploy on a toy; the zoo of robustbench alone has two hundred of them.
    """
    return [
        entry
        for entry in REGISTRY.entries(kind)
        if not getattr(entry.spec, "defect", "") and not (kind is Defense and only_loads(entry.spec))
    ]


def only_loads(defense: Defense) -> bool:
    return defense.load is not None and defense.wrap is None


PAIRS = [
    (kind, entry.spec.name, contract)
    for kind, contracts in CONTRACTS.items()
    for entry in usable(kind)
    for contract in contracts
]
SHARED = Path(__file__).parents[3] / "shared"


def identify(pair: tuple[type, str, str]) -> str:
    kind, name, contract = pair
    return f"{kind.__name__.lower()}-{name}-{contract.replace(' ', '_')}"


@pytest.fixture(autouse=True, scope="module")
def offline():
    """No download is attempted, whatever a dataset tries."""

    def refuse(*_args, **_kwargs):
        raise OSError("tests download nothing")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.datasets.utils, "_urlretrieve", refuse)
        for module in (torchvision.datasets.mnist, torchvision.datasets.cifar, torchvision.datasets.svhn):
            for name in ("download_url", "download_and_extract_archive"):
                if hasattr(module, name):
                    patch.setattr(module, name, refuse)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ours, so that nothing is written beside the shared data, with MNIST linked into it."""
    folder = tmp_path_factory.mktemp("data")
    if SHARED.is_dir():
        (folder / "MNIST").symlink_to(SHARED / "data" / "MNIST")
    return folder


@functools.cache
def dataset_results(name: str, root: Path) -> dict[str, CheckResult]:
    return {result.name: result for result in check_dataset(REGISTRY.get(Dataset, name).spec, root)}


@functools.cache
def outcome(kind: type, name: str, contract: str, root: Path) -> CheckResult:
    spec = REGISTRY.get(kind, name).spec
    if kind is Dataset:
        return dataset_results(name, root)[contract]
    every = {
        Attack: attacks.CONTRACTS, Defense: defenses.CONTRACTS, Architecture: datasets.ARCHITECTURE_CONTRACTS,
        Analysis: analyses.ANALYSIS_CONTRACTS,
    }[kind]  # fmt: skip
    held = Trial.of(spec, THREAT_KINDS) if kind is Attack else spec
    (result,) = run_checks(held, {contract: every[contract]})
    return result


def test_every_installed_plugin_is_whole():
    assert [broken_line(broken) for broken in REGISTRY.broken] == []
    assert REGISTRY.clashes() == []


@pytest.mark.parametrize("pair", PAIRS, ids=identify)
def test_contract(pair, root):
    result = outcome(*pair, root)
    assert result.state != "failed", f"{identify(pair)}: {result.detail}"
    kind, name, _ = pair
    there = name == "digits" or (name == "mnist" and (SHARED.is_dir() or os.environ.get("CI") == "true"))
    if kind is Dataset and there:
        assert result.state == "passed", f"{name} must be checked: {result.detail}"


def test_the_contracts_of_datasets_are_those_listed_here(root):
    assert tuple(dataset_results("digits", root)) == CONTRACTS[Dataset]


def test_matrix_of_what_ran(root):
    signs = {"passed": "+", "failed": "X", "not applicable": "."}
    passed: Counter[tuple[type, str]] = Counter()
    for kind, contracts in CONTRACTS.items():
        print(f"\n{kind.__name__.lower()}: + passed, . not applicable, X failed")
        for column, contract in enumerate(contracts):
            print(f"  {'| ' * column}{contract}")
        for entry in usable(kind):
            results = [outcome(kind, entry.spec.name, contract, root) for contract in contracts]
            print(f"  {' '.join(signs[result.state] for result in results)}  {entry.spec.name}")
            passed.update((kind, result.name) for result in results if result.state == "passed")
        skipped = sum(
            outcome(kind, entry.spec.name, contract, root).state == "not applicable"
            for entry in usable(kind)
            for contract in contracts
        )
        print(f"  {skipped} of {len(usable(kind)) * len(contracts)} not applicable")
    nobody = [contract for kind, contracts in CONTRACTS.items() for contract in contracts if not passed[kind, contract]]
    assert nobody == [], "contracts that no plugin was held to"
