"""The network architectures, sized by the images and the classes they are built for."""

import torch.nn.functional as F
from torch import nn

from harness.api import UsageError
from harness.networks import Classifier


def digits_net(shape, classes, *, width):
    return DigitsNet(shape, classes, width)


def lenet5(shape, classes):
    return LeNet5(shape, classes)


def lenet_advertorch(shape, classes):
    return TwoConvolutions(shape, classes, kernel=3, hidden=200)


def madry_mnist(shape, classes):
    return TwoConvolutions(shape, classes, kernel=5, hidden=1024)


def resnet18(shape, classes):
    return ResNet(shape, classes, blocks=(2, 2, 2, 2))


class DigitsNet(Classifier):
    """Stages of width, 2 width and 4 width channels at full, half and quarter size; averaged features."""

    stage_names = ("layer1", "layer2", "layer3")

    def __init__(self, shape, classes, width):
        super().__init__()
        self.layer1 = _stage(shape[0], width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.head = nn.Linear(4 * width, classes)

    def features(self, x):
        return self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3))


class LeNet5(Classifier):
    """5x5 convolutions 6 (same size) and 16, each max-pooled, then 120 and 84 features; ReLU."""

    stage_names = ("layer1", "layer2")

    def __init__(self, shape, classes):
        super().__init__()
        channels, height, width = shape
        if min(height, width) < 12:
            raise UsageError(f"lenet5 needs images of at least 12 pixels, not {height}x{width}; choose another --arch")
        self.layer1 = nn.Sequential(nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))
        self.layer2 = nn.Sequential(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2))
        self.hidden1 = nn.Linear(16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2), 120)
        self.hidden2 = nn.Linear(120, 84)
        self.head = nn.Linear(84, classes)

    def features(self, x):
        flat = self.layer2(self.layer1(x)).flatten(1)
        return F.relu(self.hidden2(F.relu(self.hidden1(flat))))


class TwoConvolutions(Classifier):
    """Same-size convolutions 32 and 64, each max-pooled, then one hidden layer; ReLU."""

    stage_names = ("layer1", "layer2")

    def __init__(self, shape, classes, *, kernel, hidden):
        super().__init__()
        channels, height, width = shape
        self.layer1 = nn.Sequential(nn.Conv2d(channels, 32, kernel, padding=kernel // 2), nn.ReLU(), nn.MaxPool2d(2))
        self.layer2 = nn.Sequential(nn.Conv2d(32, 64, kernel, padding=kernel // 2), nn.ReLU(), nn.MaxPool2d(2))
        self.hidden = nn.Linear(64 * (height // 4) * (width // 4), hidden)
        self.head = nn.Linear(hidden, classes)

    def features(self, x):
        return F.relu(self.hidden(self.layer2(self.layer1(x)).flatten(1)))


class ResNet(Classifier):
    """Basic blocks of 64, 128, 256 and 512 channels after a 3x3 stem without pooling; averaged features."""

    stage_names = ("stem", "layer1", "layer2", "layer3", "layer4")

    def __init__(self, shape, classes, *, blocks):
        super().__init__()
        self.stem = _stage(shape[0], 64, stride=1)
        channels = 64
        for number, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), 1):
            stage = []
            for block in range(count):
                stage.append(BasicBlock(channels, width, stride=2 if number > 1 and block == 0 else 1))
                channels = width
            self.add_module(f"layer{number}", nn.Sequential(*stage))
        self.head = nn.Linear(512, classes)

    def features(self, x):
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        return x.mean(dim=(2, 3))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut, which is a 1x1 convolution where shapes change."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


def _stage(before, after, stride):
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
