"""The network architectures, one module for each family; each adapts to the shape of images and the classes."""

from harness_vision.networks.preactivation import preact_resnet18
from harness_vision.networks.resnet import resnet9, resnet18, resnet20, resnet32, resnet34
from harness_vision.networks.small import digits_net, lenet5, lenet_advertorch, madry_mnist, small_cnn
from harness_vision.networks.vgg import vgg16
from harness_vision.networks.wide_resnet import resnet32_wide, wrn28_10, wrn34_10

__all__ = [
    "digits_net",
    "lenet5",
    "lenet_advertorch",
    "madry_mnist",
    "preact_resnet18",
    "resnet9",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet32_wide",
    "resnet34",
    "small_cnn",
    "vgg16",
    "wrn28_10",
    "wrn34_10",
]
