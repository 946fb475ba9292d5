"""The analyses of figures on images of the shapes whose data are not at hand: they run, on every map and feature."""

import numpy as np
import pytest
import torch

from harness.data.dataset import LoadedPart, split_sha256
from harness.registry.discovery import discover
from harness.registry.names import default_value, plain
from harness.types import Analysis, Architecture, Recipe, Split
from support.analyses import analysis_context, quantities
from support.peers import PlannedAttack
from support.training import training_context

REGISTRY = discover()
FIGURES = {
    entry.spec.name: entry.spec for entry in REGISTRY.entries(Analysis)
    if "figures" in entry.spec.groups and not entry.spec.only_of
}  # fmt: skip
SETTINGS = {
    "svhn": ("resnet9", (3, 32, 32), 10, 512), "cifar10": ("resnet32", (3, 32, 32), 10, 64),
    "cifar100": ("resnet18", (3, 32, 32), 100, 512), "tiny_imagenet": ("preact_resnet18", (3, 64, 64), 200, 2048),
}  # fmt: skip
RECIPE = Recipe(name="one", arch="any", epochs=1, batch=4, lr=1e-4)


class Peers:
    def attack(self, name, threat=None):
        return PlannedAttack(lambda model, x, y, examples: (x + 0.02).clamp(0, 1))

    def budget(self, kind):
        return 8 / 255


def part(shape, classes, n=3, seed=0):
    stream = np.random.default_rng(seed)
    split = Split(
        pixels=stream.integers(0, 256, (n, *shape), dtype=np.uint8), labels=stream.integers(0, classes, n)
    )  # fmt: skip
    return LoadedPart(split, split_sha256(split))


@pytest.mark.slow
@pytest.mark.parametrize("dataset", SETTINGS)
def test_every_analysis_of_figures_runs_on(dataset):
    arch, shape, classes, features = SETTINGS[dataset]
    spec = REGISTRY.get(Architecture, arch).spec

    def build():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return spec.build(shape, classes, **{name: default_value(value) for name, value in spec.params.items()})

    ctx = analysis_context(
        build().eval().requires_grad_(False), part(shape, classes), peers=Peers(), untrained=build,
        step=lambda model, x, y, ctx: torch.nn.functional.cross_entropy(model(x), y),
        training=training_context(
            RECIPE, step=0.01, train=part(shape, classes, seed=1), validation=part(shape, classes, n=1, seed=2)
        ),
    )  # fmt: skip
    assert {"feature_contribution", "feature_distances", "grad_cam_area"} <= set(FIGURES)
    for name, analysis in FIGURES.items():
        params = {key: plain(default_value(value)) for key, value in analysis.params.items()}
        found = quantities(name, ctx, **(params | ({"steps": 1} if "steps" in params else {})))
        if name == "feature_contribution":
            assert found["features"]["value"] == features
        if name.endswith("course"):
            assert found["same_weights"]["value"] == 0, "the network was never trained"
        assert any(quantity["value"] is not None for quantity in found.values())


def test_attacks_reach_wrapped_defenses_by_their_network():
    """TPAP's network is looked at before purification; a network of several has no features of its own."""
    from harness.conformance.analyses import _context
    from harness.errors import NotApplicable
    from harness.types import Defense

    asked = {"attack": "pgd-10", "of": "loss"}
    tpap = _context(REGISTRY.get(Defense, "tpap").spec)
    assert quantities("feature_contribution", tpap, **asked)["features"]["value"] == 128
    with pytest.raises(NotApplicable, match="penultimate features"):
        quantities("feature_contribution", _context(REGISTRY.get(Defense, "simple_structure").spec), **asked)
