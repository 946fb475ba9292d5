"""Fixtures of the plugins' tests: the oracle libraries, the public LeNet weights and MNIST read by other code."""

import importlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from harness.networks import Classifier
from harness_vision.networks import lenet_advertorch

RENAMED = {"conv1": "layer1.0", "conv2": "layer2.0", "linear1": "hidden", "linear2": "head"}
"""Module names of the shared weights -> those of architecture lenet_advertorch."""


def library(name: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            if os.environ.get("CI") == "true":
                pytest.fail(f"{name} is missing, and CI must not skip what needs it: install the extra 'oracle'")
            pytest.skip(f"needs {name}")


@pytest.fixture(scope="session")
def foolbox() -> ModuleType:
    return library("foolbox")


@pytest.fixture(scope="session")
def torchattacks() -> ModuleType:
    return library("torchattacks")


@pytest.fixture(scope="session")
def lenet(shared: Path) -> Callable[[str], Classifier]:
    """Builds the public LeNet, `adv` or `cln` trained, with its weights."""

    def build(trained: str) -> Classifier:
        path = shared / "models" / f"mnist_lenet5_{trained}trained.pt"
        found = torch.load(path, map_location="cpu", weights_only=True)
        model = lenet_advertorch((1, 28, 28), 10)
        split = [(*key.split("."), tensor) for key, tensor in found.items()]
        model.load_state_dict({f"{RENAMED[module]}.{what}": tensor for module, what, tensor in split}, strict=True)
        return model.eval().requires_grad_(False)

    return build


@pytest.fixture(scope="session")
def mnist_raw(shared: Path) -> Callable[[str], tuple[np.ndarray, np.ndarray]]:
    """Reads the IDX files of MNIST, `train` or `t10k`, without torchvision: pixels (n, 28, 28) and labels (n,)."""

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        folder = shared / "data" / "MNIST" / "raw"
        pixels = np.frombuffer((folder / f"{name}-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
        labels = np.frombuffer((folder / f"{name}-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
        return pixels.reshape(-1, 28, 28), labels

    return read
