"""From what a record says of a subject back to the network that was judged, and to the images it was judged on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from harness.data.dataset import LoadedDataset, LoadedPart
from harness.errors import BoardMismatch, CheckpointError, PluginError, UsageError
from harness.evaluation.judge import InvalidModel, Judge
from harness.models.deployment import Deployer, Deployment
from harness.models.own_model import own_model
from harness.planning.subjects import DEFENSE_OWN_NETWORK
from harness.registry.names import parse_name, plain, resolve
from harness.registry.registry import Entry, Registry
from harness.reporter import Reporter
from harness.results.naming import source_of
from harness.storage.canonical import digest
from harness.storage.schema import NetworkIdentity, Plain
from harness.training.trainer import Trainer
from harness.types import TRAINING_EPS, Architecture, Dataset, Defaults, Defense, Subject, Value, parse_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What records do not hold: a user's own network, as `harness bench` was given it, and where a folder of images is.

    `dataset`: as in `folder:PATH`. Empty where nothing is given.
    """

    model: str = ""
    weights: str = ""
    sha256: str = ""
    dataset: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """A subject that is ready to be attacked again, its defense and its dataset."""

    subject: Subject
    defense: Defense
    ready: Deployment
    data: LoadedDataset

    @property
    def judge(self) -> Judge:
        """The judge of what is deployed."""
        return self.ready.judge

    @property
    def test(self) -> LoadedPart:
        """The test images and their labels."""
        return self.data.part("test")


def rebuilt(
    network: NetworkIdentity, weights: Path | None, registry: Registry, data_root: Path, device: torch.device,
    location: str = "",
) -> Rebuilt:  # fmt: skip
    """Rebuild a network as it was judged; `weights`: the file with what was trained, unless it is loaded.

    `location`: where a dataset that is a folder is.

    Raises:
        UsageError: where a plugin is missing, or is not the one of the record.
        BoardMismatch: where images or weights are others than those of the record.
        CheckpointError, DataError: where they cannot be read.
        InvalidModel: where the network does not answer as a judge demands.
    """
    data = _data(network, registry, data_root, location)
    planned = _subject(network, weights, registry)
    trainer = Trainer(registry=registry, data=data, folder=Path(), device=device, reporter=Reporter())
    ready = Deployer(trainer).deploy(planned)
    for field, sha256, stated in (
        ("weights_sha256", ready.provenance.weights_sha256, network["weights_sha256"]),
        ("deployed_sha256", ready.provenance.deployed_sha256, network["deployed_sha256"]),
    ):
        if sha256 != stated:
            raise BoardMismatch(
                f"weights {weights or network['defense']}: {field} is {sha256[:12]}, records say {stated[:12]}"
            )
    defense = registry.entry(Defense, network["defense"]).spec
    return Rebuilt(subject=planned, defense=defense, ready=ready, data=data)


class Rebuilder:
    """The rebuilt subjects of a folder to be verified, each rebuilt once.

    `weights`: subject -> the file with what was trained, or None. `problems`: the folder's, to which it appends what
    should be had and cannot. `given`: what the user adds; it is of one network, others stay as they are.
    """

    def __init__(
        self, weights: Callable[[NetworkIdentity], Path | None], problems: list[str], registry: Registry,
        data_root: Path, device: torch.device, given: Given | None = None,
    ) -> None:  # fmt: skip
        self.weights, self.problems, self.given = weights, problems, given or Given()
        self.registry, self.data_root, self.device = registry, data_root, device
        self._found: dict[str, Rebuilt | str] = {}
        self._files: dict[str, Path | None] = {}
        self._unfit: list[str] = []
        self._fits = False

    def get(self, network: NetworkIdentity) -> Rebuilt | str:
        """Rebuild a subject, or say in a line why that cannot be done.

        A problem where its weights are there, or images or weights are not those of the record.

        Raises:
            DataError: where the dataset cannot be read.
        """
        key = digest(network)
        if key not in self._found:
            self._found[key] = self._get(network)
        return self._found[key]

    def has(self, network: NetworkIdentity) -> bool:
        """Tell whether the weights of a subject are here, or come with its defense, if that is installed."""
        if self._file(network) is not None or (self.given.model and source_of(network)):
            return True
        try:
            return self.registry.entry(Defense, network["defense"]).spec.load is not None
        except UsageError:
            return False

    def _file(self, network: NetworkIdentity) -> Path | None:
        """Find the weights of a subject, or None; only once, as a run has to read every card."""
        key = digest(network)
        if key not in self._files:
            self._files[key] = self.weights(network)
        return self._files[key]

    def _get(self, network: NetworkIdentity) -> Rebuilt | str:
        weights = self._file(network)
        if source_of(network) and weights is None:
            return self._own(network)
        try:
            return rebuilt(network, weights, self.registry, self.data_root, self.device, self._location)
        except (UsageError, PluginError, CheckpointError, BoardMismatch, InvalidModel) as error:
            if weights is not None or isinstance(error, BoardMismatch):
                self.problems.append(f"{network['defense']}, {network['arch']}, {network['recipe']}: {error}")
            return str(error).splitlines()[0]

    @property
    def _location(self) -> str:
        return self.given.dataset.partition(":")[2]

    def _own(self, network: NetworkIdentity) -> Rebuilt | str:
        """Rebuild a user's own network from what is given, or say why it is not that."""
        if not self.given.model:
            return f"{network['defense']} is a network of somebody's own: give its --model, and its --weights if any"
        try:
            own = own_model(self.given.model, self.given.weights, self.given.sha256)
            own.called = network["defense"]
            registry = own.join(self.registry)
            data = _data(network, registry, self.data_root, self._location)
            # Built before it is compared, as a run does: what it imports while it is built is part of its origin.
            own.check(replace(data.spec, shape=data.shape, classes=data.classes), network["train_seed"])
            found = rebuilt(network, None, registry, self.data_root, self.device, self._location)
        except (UsageError, PluginError, CheckpointError, BoardMismatch, InvalidModel) as error:
            told = str(error).splitlines()[0]
            self._unfit.append(f"{network['defense']}: --model {self.given.model} is not its network: {told}")
            return told
        self._fits = True
        return found

    def unfit(self) -> list[str]:
        """Say of each network that was asked for why the one given is another; nothing where it is one of them."""
        return [] if self._fits else self._unfit


def _data(network: NetworkIdentity, registry: Registry, root: Path, location: str) -> LoadedDataset:
    """Load the dataset of a record: of a folder all images or its test images, whichever were judged.

    Raises:
        UsageError: where nothing says where a folder is.
        BoardMismatch: where the images are others.
    """
    name, colon, _ = network["dataset"].partition(":")
    if colon and not location:
        raise UsageError(f"records do not say where '{network['dataset']}' is: give --dataset {name}:PATH")
    spec = registry.get(Dataset, name).spec
    for everything in (True, False) if spec.everything else (False,):
        data = LoadedDataset(spec, network["dataset"], root, location if colon else "", everything)
        if data.part("test").sha256 == network["data_sha256"]:
            return data
    raise BoardMismatch(f"dataset '{name}': the test images here are not those of the records (another sha256)")


def _subject(network: NetworkIdentity, weights: Path | None, registry: Registry) -> Subject:
    defense = registry.entry(Defense, network["defense"])
    _same("defense", network["defense"], defense, network["defense_origin"], network["defense_revision"])
    params = _params("defense", network["defense"], defense.spec.params, network["defense_params"])
    arch_params: dict[str, Value] = {}
    if network["arch"] != DEFENSE_OWN_NETWORK:
        arch = registry.entry(Architecture, network["arch"])
        _same("arch", network["arch"], arch, network["arch_origin"], network["arch_revision"])
        arch_params = _params("arch", network["arch"], arch.spec.params, network["arch_params"])
    loaded = defense.spec.load is not None
    if weights is None and not loaded:
        raise UsageError(f"the weights {network['weights_sha256'][:12]} of {network['defense']} are not there")
    return Subject(
        defense=network["defense"], defense_params=params, arch=network["arch"], arch_params=arch_params, recipe=None,
        train_seed=network["train_seed"], weights="" if loaded else str(weights),
    )  # fmt: skip


def _same(noun: str, name: str, entry: Entry[Any], origin: str, revision: int) -> None:
    """Compare plugin and revision with those of the record.

    Raises:
        UsageError: where they differ.
    """
    installed = (entry.provider.origin, entry.spec.revision)
    if installed != (origin, revision):
        raise UsageError(
            f"{noun} '{name}' is revision {installed[1]} of {installed[0]} here, "
            f"records say revision {revision} of {origin}"
        )


def _params(noun: str, name: str, defaults: Defaults, recorded: Mapping[str, Plain]) -> dict[str, Value]:
    """Resolve the parameters that the id stands for; what the planner put in is taken from the record.

    Raises:
        UsageError: where they are not those of the record.
    """
    bare, given = parse_name(name)
    params = {
        key: parse_number(str(recorded.get(key))) if value == TRAINING_EPS else value
        for key, value in resolve(noun, bare, defaults, given).items()
    }
    if {key: plain(value) for key, value in params.items()} != recorded:
        raise UsageError(f"{noun} '{name}' has other parameters here than in the records")
    return params
