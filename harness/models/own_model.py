"""A user's own network, without a plugin: what a factory returns, and the weights that go into it, as a defense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from harness.data.dataset import LoadedDataset
from harness.errors import UsageError
from harness.evaluation.absent import without_absent
from harness.evaluation.isolation import isolated
from harness.models.factory import Factory, find_factory
from harness.models.in_memory import factory_in_memory, network_in_memory
from harness.models.trial import try_out, whole
from harness.registry import discovery
from harness.registry.hookspecs import hookimpl
from harness.registry.names import plain_name, unlabelled
from harness.registry.registry import Broken, Provider, Registry
from harness.storage import foreign, weights
from harness.types import Dataset, Defense


@dataclass(slots=True, kw_only=True, eq=False)
class OwnModel:
    """A plugin that offers one defense: the network of a factory, with `tensors` in it where there are any.

    Records name the factory with the first digits of the sha256 over its source files, so that editing one is another
    defense; those that it imports late count from when the network was built. `weights_file` is where the tensors come
    from. `called`: the name that the user gave. `warn` is told of classes that the network does not have.
    """

    factory: Factory
    tensors: weights.Tensors | None = None
    weights_file: str = ""
    called: str = ""
    warn: Callable[[str], None] = lambda line: None
    _built: nn.Module | None = field(default=None, repr=False)
    _provider: Provider | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The name of the defense: the one given, else `module.function`, and with weights their file as a label."""
        if self.called or not self.weights_file:
            return self.called or self.factory.name
        return f"{self.factory.name} ({plain_name(Path(self.weights_file).stem) or 'weights'})"

    @property
    def origin(self) -> str:
        """What records name: the factory, and the sources that it loaded so far."""
        return f"{unlabelled(self.name)}@{self.factory.identity[:12]}"

    @hookimpl
    def harness_defenses(self) -> list[Defense]:
        """Return the one defense that loads the network."""
        return [Defense(name=self.name, load=self._load, summary=f"your own network, by {self.factory.text}")]

    def join(self, registry: Registry) -> Registry:
        """Make a registry that also has this defense.

        Raises:
            UsageError: where its name cannot be one, or is one already.
        """
        file = self.factory.source.name if self.factory.source else self.name
        name = unlabelled(self.name)
        provider = self._provider = Provider(name, file, "", origin=self.origin)
        loaded = discovery.load(provider, lambda: self)
        if isinstance(loaded, Broken):
            raise UsageError(f"--model {self.factory.text}: {loaded.reason}")
        joined = Registry([*registry.loaded, loaded], registry.broken)
        joined.get(Defense, self.name)
        return joined

    def check(self, dataset: Dataset, train_seed: int) -> None:
        """Build the network and try it out before any work, where the shape of the images is known without loading.

        Raises:
            UsageError: where the factory fails, or what it returns does not answer logits for [0, 1] images.
            CheckpointError: where the weights do not fit.
        """
        if dataset.shape is not None and dataset.classes is not None:
            with isolated("load", train_seed, collect=False):
                self._built = self._build(dataset.shape, dataset.classes)

    def _load(self, *, data: LoadedDataset) -> nn.Module:
        return self._built if self._built is not None else self._build(data.shape, data.classes)

    def _build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Build the network, put the weights into it and try it out.

        Raises:
            UsageError: with the reason why it cannot be judged or attacked.
        """
        with self.factory.fresh():
            network = whole(self.factory.network(shape, classes), shape, self.factory.text)
            if self.tensors is not None:
                hint = f"They must be of what {self.factory.text} returns"
                weights.put(network, self.tensors, self.weights_file, hint=hint)
            network = self._without_absent(network, shape)
            try_out(network, shape, classes, self.factory.text)
        if self._provider is not None:
            # Known only now: what was imported while the network was built and tried out belongs to it.
            object.__setattr__(self._provider, "origin", self.origin)
        return network

    def _without_absent(self, network: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
        network, absent = without_absent(network, shape)
        if absent:
            self.warn(
                f"{self.name}: answers -inf for class {', '.join(map(str, absent))} for every image: taken as absent, "
                "with a finite logit below all others, for the judge and every attack"
            )
        return network


def own_model(model: object, weights_file: str = "", sha256: str = "", name: str = "") -> OwnModel:
    """Make the plugin of a user's own network: find the factory and read the weights.

    `model`: where a factory is, `file.py:function` or `package.module:function`; a factory; or a network in memory,
    which is copied. `name`: what to call it. Weights are a .safetensors file, or a foreign torch state dict,
    whose bytes must have the given sha256.

    Raises:
        UsageError: where there is no such function, importing it fails, it is none of these, or the name cannot be one.
        CheckpointError: for weights that cannot be read, or whose sha256 is another one.
    """
    called = plain_name(name)
    if name and not called:
        raise UsageError(f"--name '{name}': write letters and digits, with . _ and - between them")
    if isinstance(model, nn.Module):
        factory = network_in_memory(model, name)
    elif isinstance(model, str):
        factory = find_factory(model)
    elif callable(model):
        factory = factory_in_memory(model, name)
    else:
        kind = type(model).__name__
        raise UsageError(f"--model: {kind} is neither a network, nor a function, nor file.py:function")
    tensors = _tensors(Path(weights_file), sha256) if weights_file else None
    return OwnModel(factory=factory, tensors=tensors, weights_file=weights_file, called=called)


def _tensors(path: Path, sha256: str) -> weights.Tensors:
    if path.suffix != ".safetensors":
        return foreign.read_foreign(path, sha256)
    if sha256:
        foreign.pinned(path, sha256)
    return weights.read(path)
