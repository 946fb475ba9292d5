"""`folder:PATH` sees what torchvision's ImageFolder sees, says what else is there, and changes no pixel in silence."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from harness.data.dataset import LoadedDataset
from harness.errors import DataError
from harness.planning.plan import plan
from harness.planning.request import Request
from harness.registry.discovery import discover
from harness_vision import harness_datasets

(FOLDER,) = (dataset for dataset in harness_datasets() if dataset.name == "folder")
REGISTRY = discover()


def everything(path: Path) -> LoadedDataset:
    return LoadedDataset(FOLDER, "folder:x", Path("nowhere"), str(path), everything=True)


def fill(folder: Path, classes: str = "ab", each: int = 3, suffix: str = ".png", seed: int = 0) -> Path:
    stream = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            Image.fromarray(stream.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name / f"{i}{suffix}")
    return folder


def as_torchvision_has_it(path: Path) -> tuple[list[np.ndarray], list[int], list[str]]:
    whole = ImageFolder(str(path))
    return [np.asarray(image) for image, _ in whole], [label for _, label in whole], whole.classes


def linked(path: Path) -> Path:
    """One class is a link to a folder elsewhere."""
    real = fill(path / "elsewhere", "c")
    fill(path / "data", "ab")
    (path / "data" / "c").symlink_to(real / "c")
    return path / "data"


@pytest.mark.parametrize(
    "make",
    [
        lambda path: fill(path, "abc"), lambda path: fill(path, "abcdefgh", each=1), linked,
        lambda path: fill(fill(path, "ab"), "c", suffix=".tif"), lambda path: fill(path, suffix=".TIFF"),
    ],
    ids=["plain", "one image a class", "a link", "tif", "upper case"],
)  # fmt: skip
def test_everything_is_what_torchvision_sees(tmp_path, make):
    path = make(tmp_path / "x")
    pixels, labels, classes = as_torchvision_has_it(path)
    found = everything(path)
    split = found.part("test").split
    assert split.labels.tolist() == labels
    assert found.classes == len(classes)
    assert np.array_equal(split.pixels.transpose(0, 2, 3, 1), np.stack(pixels))
    assert split.notes == ()


def test_a_link_back_to_its_own_folder_ends(tmp_path):
    path = linked(tmp_path)
    (tmp_path / "elsewhere" / "c" / "back").symlink_to(path)
    assert everything(path).part("test").split.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_what_is_left_out_is_told_with_counts(tmp_path):
    path = fill(tmp_path / "x", each=20)
    (path / "a" / "notes.txt").write_text("no image")
    (path / "b" / "moving.gif").write_bytes(b"GIF89a")
    (path / "b" / ".hidden").write_text("a system's own")
    (note,) = everything(path).part("test").split.notes
    assert note.endswith("left out what is no image that is read here: 1 .gif, 1 .txt")
    cut = LoadedDataset(FOLDER, "folder:x", Path("nowhere"), str(path)).part("test").split
    assert cut.notes == (note,)


def test_a_zip_tells_the_same(tmp_path):
    path = fill(tmp_path / "x")
    (path / "a" / "notes.txt").write_text("no image")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for file in sorted(path.rglob("*.*")):
            archive.write(file, file.relative_to(path))
    assert everything(tmp_path / "x.zip").part("test").sha256 == everything(path).part("test").sha256
    assert "1 .txt" in everything(tmp_path / "x.zip").part("test").split.notes[0]


@pytest.mark.parametrize("exact", [True, False])
def test_sixteen_bits_are_read_where_nothing_is_lost_and_refused_elsewhere(tmp_path, exact):
    eight = np.arange(64, dtype=np.uint16).reshape(8, 8) * 4
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(eight * 257 + (0 if exact else 1)).save(tmp_path / name / "0.png")
    if not exact:
        with pytest.raises(DataError, match=r"more than 8 bits a pixel .*convert it first"):
            everything(tmp_path).part("test")
        return
    assert np.array_equal(everything(tmp_path).part("test").split.pixels[0, 0], eight)


def planned(**asked):
    return plan(Request(**{"dataset": "folder:some/where", "attacks": ["clean"], "limit": 4, **asked}), REGISTRY)


def test_only_where_nothing_is_trained_is_everything_judged(tmp_path):
    weights = {"defenses": ["raw"], "arch": "lenet5", "weights": "w.safetensors"}
    assert planned(**weights).everything
    assert not planned(defenses=["raw"], arch="lenet5").everything, "it is trained on a part of the images"
    assert not planned(**weights, attacks=["nst_ss"]).everything, "the attack looks at training images"
    assert not planned(**weights, dataset="digits").everything, "its test images are known"


def test_a_network_of_ones_own_is_judged_on_all_images(cli):
    fill(cli.folder / "pictures" / "test", "ab", each=20)
    (cli.folder / "net.py").write_text(
        "from torch import nn\n\n\ndef build(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * shape[1] * shape[2], classes))\n"
    )
    ran = cli.run("bench", "--model", "net.py:build", "--dataset", "folder:pictures/test", "--attacks", "clean")
    assert ran.returncode == 0, ran.stderr
    assert "n=40" in ran.stdout
