"""What a dataset promises is checked where it is loaded, and said in its own words."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.data.dataset import LoadedDataset
from harness.errors import DataError
from harness.types import Dataset, Split


def dataset(labels, **changes) -> LoadedDataset:
    def load(part, *, root, location):
        return Split(pixels=np.zeros((len(labels), 1, 2, 2), dtype=np.uint8), labels=np.array(labels, dtype=np.int64))

    spec = Dataset(name="some", load=load, classes=3, shape=(1, 2, 2), budgets={})
    return LoadedDataset(replace(spec, **changes), "some", Path("nowhere"))


def test_labels_that_count_from_one_are_told_as_the_datasets_mistake():
    with pytest.raises(DataError, match="dataset 'some', test: labels 1 to 3, but 3 classes: labels count from 0 to 2"):
        dataset([1, 2, 3]).part("test")
    assert len(dataset([0, 2]).part("test")) == 2, "a part may lack a class"
    assert dataset([1, 2, 3], classes=None).classes == 4


def test_everything_is_asked_for_in_place_of_the_test_part():
    asked = []

    def load(part, *, root, location):
        asked.append(part)
        return Split(pixels=np.zeros((2, 1, 2, 2), dtype=np.uint8), labels=np.array([0, 1]))

    spec = Dataset(name="some", load=load, classes=None, shape=None, budgets={})
    found = LoadedDataset(spec, "some", Path("nowhere"), everything=True)
    assert (found.classes, found.shape, len(found.part("test"))) == (2, (1, 2, 2), 2)
    assert asked == ["everything"], "training images are not needed to tell shape and classes"
