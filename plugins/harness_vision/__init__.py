"""Image datasets, their budgets and recipes, and the network architectures of the papers."""

from collections.abc import Iterable

from harness.api import Architecture, Dataset, OneOf, hookimpl, lazy
from harness_vision.catalog import DATASETS

ABOUT = {
    "width": "channels of the first stage; the second has twice as many, the third four times",
    "zero_head": "whether the last layer starts at zero, as in the code of TRADES",
    "normalisation": "whether the network first normalises images by the mean and deviation of ImageNet's colours",
}
NORMALISATION = {"normalisation": OneOf(("none", "imagenet"))}


@hookimpl
def harness_datasets() -> Iterable[Dataset]:
    """Offer the datasets."""
    return DATASETS


@hookimpl
def harness_architectures() -> Iterable[Architecture]:
    """Offer the architectures."""
    for name, params, summary in (
        ("digits_net", {"width": 16}, "three 3x3 convolution stages with batch norm, for 8x8 images"),
        ("lenet5", {}, "LeNet-5: 6-16-120-84, 61,706 parameters on 28x28 grey images"),
        ("lenet_advertorch", {}, "two 3x3 convolutions 32-64 and 200 features; 648,226 parameters on MNIST"),
        ("madry_mnist", {}, "two 5x5 convolutions 32-64 and 1,024 features; 3,274,634 parameters on MNIST"),
        ("small_cnn", {"zero_head": False}, "the SmallCNN of TRADES; 312,202 parameters on MNIST"),
        ("resnet9", {}, "DAWNBench's ResNet-9; 6,573,130 parameters with 10 classes"),
        ("resnet18", {}, "ResNet-18 for 32x32 images; 11,173,962 parameters with 10 classes"),
        ("resnet20", NORMALISATION, "ResNet-20 of He et al. for CIFAR-10, option A; 269,722 parameters"),
        ("resnet32", NORMALISATION, "ResNet-32 of He et al. for CIFAR-10, option A; 464,154 parameters"),
        ("resnet32_wide", {}, "Madry's CIFAR-10 network, w32-10; 45,901,914 parameters"),
        ("resnet34", {}, "ResNet-34 for 32x32 images; 21,282,122 parameters with 10 classes"),
        ("preact_resnet18", {}, "pre-activation ResNet-18; 11,576,840 parameters on 64x64 images with 200 classes"),
        ("vgg16", {}, "VGG-16 with batch norm; 14,728,266 parameters with 10 classes"),
        ("wrn28_10", {}, "wide ResNet 28-10; 36,479,194 parameters with 10 classes"),
        ("wrn34_10", {}, "wide ResNet 34-10 without the unused group; 46,160,474 parameters with 10 classes"),
    ):
        yield Architecture(
            name=name,
            build=lazy(f"harness_vision.networks:{name}"),
            params=params,
            about={parameter: ABOUT[parameter] for parameter in params},
            summary=summary,
        )
