"""Image datasets, their budgets and recipes, and the network architectures of the papers."""

from collections.abc import Iterable

from harness.api import Architecture, Dataset, hookimpl, lazy
from harness_vision.catalog import DATASETS


@hookimpl
def harness_datasets() -> Iterable[Dataset]:
    return DATASETS


@hookimpl
def harness_architectures() -> Iterable[Architecture]:
    for name, params, summary in (
        ("digits_net", {"width": 16}, "three 3x3 convolution stages with batch norm, for 8x8 images"),
        ("lenet5", {}, "LeNet-5: 6-16-120-84, 61,706 parameters on 28x28 grey images"),
        ("lenet_advertorch", {}, "two 3x3 convolutions 32-64 and 200 features; 648,226 parameters on MNIST"),
        ("madry_mnist", {}, "two 5x5 convolutions 32-64 and 1,024 features; 3,274,634 parameters on MNIST"),
        ("resnet18", {}, "ResNet-18 for 32x32 images; 11,173,962 parameters with 10 classes"),
    ):
        yield Architecture(name=name, build=lazy(f"harness_vision.networks:{name}"), params=params, summary=summary)
