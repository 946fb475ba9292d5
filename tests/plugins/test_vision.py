"""harness_vision: splits with known answers, networks of known sizes, folders, and what is said of missing data."""

import hashlib
import io
import itertools
import os
import shutil
import struct
import zipfile
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from harness.data.dataset import LoadedDataset
from harness.errors import DataError
from harness.networks import Classifier, parameter_count
from harness.registry.names import default_value
from harness.types import Split
from harness_vision import datasets, harness_architectures, harness_datasets, images

DATASETS = {dataset.name: dataset for dataset in harness_datasets()}
ARCHITECTURES = {arch.name: arch for arch in harness_architectures()}
PARTS = ("train", "validation", "test")


def loaded(name: str, root: Path = Path("nowhere"), location: str = "") -> LoadedDataset:
    return LoadedDataset(DATASETS[name], name, root, location)


def build(name: str, shape: tuple[int, int, int], classes: int, **given) -> Classifier:
    params = {key: default_value(value) for key, value in ARCHITECTURES[name].params.items()}
    return ARCHITECTURES[name].build(shape, classes, **{**params, **given}).eval()


def as_images(split: Split) -> Counter[tuple[bytes, int]]:
    return Counter((row.tobytes(), int(label)) for row, label in zip(split.pixels, split.labels, strict=True))


# --- digits ----------------------------------------------------------------------------------------------------------

DIGITS_SHA256 = {
    "train": "236e9b2ba58dd5420a331e79a79a12d8fa48e56513328e2a7fafb024349a34fa",
    "validation": "8ac680b2db506d221d16981c78e1e20287f3251701d8e97318b6613461b2b13d",
    "test": "ee64bf774d0e1604e498f9baf3353d70f8bf17ac23aad4ac2295ac8cc0a33192",
}


@pytest.mark.parametrize("part", PARTS)
def test_digits_are_the_very_images_that_records_name(part):
    found = loaded("digits").part(part)
    assert found.sha256 == DIGITS_SHA256[part]
    # The hash that the harness takes, taken by hand.
    pixels, labels = found.split.pixels, found.split.labels
    head = f"({len(labels)}, 1, 8, 8) 16\n".encode()
    assert hashlib.sha256(head + labels.astype("<i8").tobytes() + pixels.tobytes()).hexdigest() == found.sha256


def test_digits_parts_are_stratified_disjoint_and_all_of_scikit_learns():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    every = Counter((row.astype(np.uint8).tobytes(), int(label)) for row, label in zip(images, labels, strict=True))
    parts = {part: loaded("digits").part(part).split for part in PARTS}
    assert {part: len(split.labels) for part, split in parts.items()} == {"train": 1097, "validation": 200, "test": 500}
    assert sum((as_images(split) for split in parts.values()), Counter()) == every
    assert not any(as_images(parts[a]) & as_images(parts[b]) for a, b in itertools.combinations(PARTS, 2))
    share = np.bincount(labels) / len(labels)
    for part, split in parts.items():
        assert np.abs(np.bincount(split.labels) - share * len(split.labels)).max() <= 1, part


def test_digits_pixels_have_sixteen_levels():
    part = loaded("digits").part("train")
    assert part.split.levels == 16
    assert set(np.unique(part.split.pixels)) == set(range(17))
    x, y = part.batch(slice(0, 100), torch.device("cpu"))
    assert x.shape == (100, 1, 8, 8)
    assert (x.min(), x.max()) == (0, 1)
    assert torch.equal(x, torch.from_numpy(part.split.pixels[:100]).float() / 16)
    assert torch.equal(y, torch.from_numpy(part.split.labels[:100]))


# --- MNIST and the other named datasets ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mnist(shared: Path) -> LoadedDataset:
    return loaded("mnist", shared / "data")


def test_mnist_test_images_are_those_of_the_files(mnist, mnist_raw):
    pixels, labels = mnist_raw("t10k")
    split = mnist.part("test").split
    assert split.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.array_equal(split.pixels, pixels[:, None])
    assert np.array_equal(split.labels, labels)
    assert split.levels == 255


def test_mnist_validation_is_cut_from_the_training_images(mnist, mnist_raw):
    pixels, labels = mnist_raw("train")
    train, validation = mnist.part("train").split, mnist.part("validation").split
    assert (len(train.labels), len(validation.labels)) == (59000, 1000)
    every = Counter((row.tobytes(), int(label)) for row, label in zip(pixels, labels, strict=True))
    assert as_images(train) + as_images(validation) == every
    share = np.bincount(labels) / len(labels)
    assert np.abs(np.bincount(validation.labels) - 1000 * share).max() <= 1


TORCHVISION = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "svhn": "SVHN",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}


@pytest.mark.parametrize("error", [RuntimeError("Error downloading x.gz"), OSError("Network is unreachable")])
@pytest.mark.parametrize("name", TORCHVISION)
def test_a_dataset_that_is_neither_on_disk_nor_on_the_network_says_what_to_do(name, error, monkeypatch, tmp_path):
    asked = []

    def missing(root, download, **which):
        asked.append((root, download))
        raise error if download else RuntimeError("Dataset not found. You can use download=True to download it")

    monkeypatch.setattr(torchvision.datasets, TORCHVISION[name], missing)
    with pytest.raises(DataError, match="--data-root") as raised:
        loaded(name, tmp_path).part("test")
    assert str(tmp_path) in str(raised.value)
    assert str(error) in str(raised.value)
    assert asked == [(str(tmp_path), False), (str(tmp_path), True)]  # what is on disk first


def test_a_failed_download_without_a_message_is_a_data_error_too(monkeypatch, tmp_path):
    def missing(root, download, **which):
        raise TimeoutError if download else RuntimeError("Dataset not found")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", missing)
    with pytest.raises(DataError, match="--data-root"):
        loaded("cifar10", tmp_path).part("test")


class OnDisk:
    """Stands for a torchvision dataset class, with 40 images of each of 50 labels."""

    asked: list[dict[str, object]]

    def __init__(self, shape: tuple[int, ...], labels_as: str) -> None:
        self.shape, self.labels_as, self.asked = shape, labels_as, []

    def __call__(self, **arguments):
        self.asked.append(arguments)
        test = not arguments.get("train", arguments.get("split") == "train")
        labels = np.arange(2000) % 50
        self.data = np.zeros((2000, *self.shape), dtype=np.uint8)
        self.data[np.arange(2000), 0, 1] = (labels[:, None] if len(self.shape) == 3 else labels) + 100 * test
        setattr(self, self.labels_as, labels.tolist())
        return self


@pytest.mark.parametrize(
    ("name", "disk", "where"),
    [
        ("cifar10", OnDisk((32, 32, 3), "targets"), (0, 0, 1)),  # height, width, colour in torchvision
        ("cifar100", OnDisk((32, 32, 3), "targets"), (0, 0, 1)),
        ("svhn", OnDisk((3, 32, 32), "labels"), (0, 1, 0)),  # colour, height, width in torchvision
        ("fashion-mnist", OnDisk((28, 28), "targets"), (0, 0, 1)),
    ],
)
def test_torchvisions_layouts_become_channels_first_and_validation_comes_from_train(name, disk, where, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, TORCHVISION[name], disk)
    # Labels name the images here, and there are more of them than classes.
    traced = LoadedDataset(replace(DATASETS[name], classes=None), name, Path("nowhere"))
    parts = {part: traced.part(part).split for part in PARTS}
    assert [len(parts[part].labels) for part in PARTS] == [1000, 1000, 2000]
    for part, split in parts.items():
        assert split.pixels.shape[1:] == DATASETS[name].shape
        marked = split.pixels[(slice(None), *where)]
        assert np.array_equal(marked, split.labels + 100 * (part == "test")), part
    assert not any(arguments["download"] for arguments in disk.asked)


# --- the networks of digits and MNIST; the others are in test_architectures.py ---------------------------------------


@pytest.mark.parametrize(("width", "channels", "classes"), [(16, 1, 10), (16, 3, 7), (5, 1, 10)])
def test_digits_net_has_the_size_its_widths_give(width, channels, classes):
    before, count = channels, 0
    for after in (width, 2 * width, 4 * width):
        count += 9 * before * after + 2 * after  # 3x3 convolution without bias; scale and shift of the batch norm
        before = after
    count += 4 * width * classes + classes
    model = build("digits_net", (channels, 8, 8), classes, width=width)
    assert parameter_count(model) == count
    stages = model.stages(torch.zeros(2, channels, 8, 8))
    assert {name: tuple(output.shape[1:]) for name, output in stages.items()} == {
        "layer1": (width, 8, 8), "layer2": (2 * width, 4, 4), "layer3": (4 * width, 2, 2),
    }  # fmt: skip
    assert model.features(torch.zeros(2, channels, 8, 8)).shape == (2, 4 * width)


def test_digits_net_has_64_features_unless_told_otherwise():
    assert build("digits_net", (1, 8, 8), 10).head.in_features == 64


@pytest.mark.parametrize(("name", "features"), [("lenet5", 84), ("lenet_advertorch", 200), ("madry_mnist", 1024)])
def test_the_head_sees_the_last_hidden_layer(name, features):
    model = build(name, (1, 28, 28), 10)
    assert model.features(torch.zeros(2, 1, 28, 28)).shape == (2, features)
    assert model.head.in_features == features


@pytest.mark.slow
@pytest.mark.parametrize(("trained", "accuracy"), [("adv", 98.64), ("cln", 98.89)])
def test_the_public_weights_reach_their_accuracy_on_all_test_images(trained, accuracy, lenet, mnist):
    model, part = lenet(trained), mnist.part("test")
    right = 0
    with torch.no_grad():
        for start in range(0, 10_000, 100):
            x, y = part.batch(slice(start, start + 100), torch.device("cpu"))
            right += int((model(x).argmax(dim=1) == y).sum())
    assert right / 100 == pytest.approx(accuracy, abs=0.01)


# --- Tiny-ImageNet and Caltech-101: folders of their own layouts -----------------------------------------------------


def jpeg(path: Path, size: tuple[int, int], colour: tuple[int, int, int], mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, "JPEG")


def linked(source: Path, target: Path) -> Path:
    """A copy of a folder in which files can be removed and replaced, and not written over."""
    return Path(shutil.copytree(source, target, copy_function=os.link))


def plainly(files: dict[Path, int], size: tuple[int, int]) -> Counter[tuple[bytes, int]]:
    """What files of a single colour are as images (pixels, label), by another way than the harness's."""
    found: Counter[tuple[bytes, int]] = Counter()
    for path, label in files.items():
        with Image.open(path) as image:
            colour = np.array(image.convert("RGB").getpixel((0, 0)), dtype=np.uint8)
        found[np.broadcast_to(colour[:, None, None], (3, *size)).tobytes(), label] += 1
    return found


TINY_CLASSES = [f"n{10 * number:08}" for number in range(200)]


@pytest.fixture(scope="module")
def tiny_root(tmp_path_factory) -> Path:
    """Tiny-ImageNet with 6 training images for each of its classes, one of them grey, and 300 validation images."""
    root = tmp_path_factory.mktemp("tiny")
    home = root / "tiny-imagenet-200"
    for label, name in enumerate(TINY_CLASSES):
        for i in range(6):
            jpeg(
                home / "train" / name / "images" / f"{name}_{i}.JPEG",
                (64, 64),
                (label, 40 * i, 0),
                "L" if i == 5 else "RGB",
            )
        (home / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t62\t62\n")
    lines = []
    for i in range(300):
        jpeg(home / "val" / "images" / f"val_{i}.JPEG", (64, 64), (0, 0, i // 2))
        lines.append(f"val_{i}.JPEG\t{TINY_CLASSES[i * 7 % 200]}\t0\t32\t44\t62\n")
    (home / "val" / "val_annotations.txt").write_text("".join(lines))
    jpeg(home / "test" / "images" / "test_0.JPEG", (64, 64), (9, 9, 9))
    return root


def test_tiny_imagenet_is_tested_on_its_annotated_validation_images(tiny_root):
    home, dataset = tiny_root / "tiny-imagenet-200", loaded("tiny-imagenet", tiny_root)
    parts = {part: dataset.part(part).split for part in PARTS}
    assert {part: split.pixels.shape for part, split in parts.items()} == {
        "train": (200, 3, 64, 64), "validation": (1000, 3, 64, 64), "test": (300, 3, 64, 64),
    }  # fmt: skip
    validation = {home / "val" / "images" / f"val_{i}.JPEG": i * 7 % 200 for i in range(300)}
    assert as_images(parts["test"]) == plainly(validation, (64, 64))
    assert parts["test"].labels[:3].tolist() == [0, 7, 14]  # in the order of the annotations
    train = {path: TINY_CLASSES.index(path.parts[-3]) for path in home.glob("train/*/images/*.JPEG")}
    assert as_images(parts["train"]) + as_images(parts["validation"]) == plainly(train, (64, 64))
    assert np.bincount(parts["validation"].labels).tolist() == [5] * 200


TINY_FILES = (
    "tiny-imagenet-200/train/CLASS/images/*.JPEG", "tiny-imagenet-200/val/images/*.JPEG",
    "tiny-imagenet-200/val/val_annotations.txt", "tiny-imagenet-200.zip",
)  # fmt: skip


@pytest.mark.parametrize(
    ("part", "gone"),
    [
        ("train", "train"),
        ("test", "train"),
        ("train", f"train/{TINY_CLASSES[3]}"),
        ("train", f"train/{TINY_CLASSES[3]}/images"),
        ("test", "val/val_annotations.txt"),
        ("test", "val/images/val_7.JPEG"),
    ],
)
def test_what_is_missing_of_tiny_imagenet_is_named_with_where_all_of_it_belongs(tiny_root, tmp_path, part, gone):
    path = linked(tiny_root, tmp_path / "data") / "tiny-imagenet-200" / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataError) as raised:
        loaded("tiny-imagenet", tmp_path / "data").part(part)
    named = path.parent if gone == f"train/{TINY_CLASSES[3]}" else path  # 199 of the class folders
    assert all(text in str(raised.value) for text in (str(named), "--data-root", *TINY_FILES))


def test_damage_to_tiny_imagenet_is_named(tiny_root, tmp_path):
    home = linked(tiny_root, tmp_path / "data") / "tiny-imagenet-200"
    (home / "val" / "val_annotations.txt").unlink()
    (home / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn99999999\t0\t0\t1\t1\n")
    with pytest.raises(
        DataError, match=r"val_annotations\.txt has a line without a known class: val_0\.JPEG n99999999"
    ):
        loaded("tiny-imagenet", tmp_path / "data").part("test")
    for image in (home / "train" / TINY_CLASSES[0] / "images").glob("*.JPEG"):
        image.unlink()
        jpeg(image, (64, 32), (0, 0, 0))
    with pytest.raises(DataError, match=rf"train/{TINY_CLASSES[0]}/images/.*JPEG is 64x32 pixels, not 64x64"):
        loaded("tiny-imagenet", tmp_path / "data").part("train")
    for name in TINY_CLASSES:
        for i in range(1, 6):
            (home / "train" / name / "images" / f"{name}_{i}.JPEG").unlink()
    with pytest.raises(DataError, match=r"the 200 images in .* are too few .* extract the archive again"):
        loaded("tiny-imagenet", tmp_path / "data").part("train")


@pytest.fixture(scope="module")
def caltech_root(tmp_path_factory) -> Path:
    """Caltech-101 with 15 images for each of its classes, of several sizes, and its background class."""
    root = tmp_path_factory.mktemp("caltech")
    home = root / "caltech101" / "101_ObjectCategories"
    for number in range(101):
        for i in range(15):
            size, mode = ((30, 20), (20, 30), (64, 64), (100, 70))[i % 4], "L" if i == 7 else "RGB"
            jpeg(home / f"class_{number:03}" / f"image_{i:04}.jpg", size, (2 * number, 16 * i, 99), mode)
        jpeg(home / "BACKGROUND_Google" / f"image_{number:04}.jpg", (30, 20), (255, 0, 255))
    (home / "class_000" / "._image_0000.jpg").write_bytes(b"resource fork")
    (home / ".hidden").mkdir()
    return root


def test_caltech_is_cut_into_three_stratified_parts_without_its_background(caltech_root):
    home, dataset = caltech_root / "caltech101" / "101_ObjectCategories", loaded("caltech101", caltech_root)
    parts = {part: dataset.part(part).split for part in PARTS}
    # A fifth of 1,515 images is the test part, a tenth of the other 1,212 the validation part.
    assert {part: split.pixels.shape for part, split in parts.items()} == {
        "train": (1091, 3, 64, 64), "validation": (121, 3, 64, 64), "test": (303, 3, 64, 64),
    }  # fmt: skip
    files = {path: int(path.parent.name[-3:]) for path in home.glob("class_*/image_*.jpg")}
    assert len(files) == 1515
    assert sum((as_images(split) for split in parts.values()), Counter()) == plainly(files, (64, 64))
    assert np.bincount(parts["test"].labels).tolist() == [3] * 101
    assert set(np.bincount(parts["validation"].labels).tolist()) == {1, 2}


def test_caltech_in_the_size_of_its_files_is_the_same_split_300_wide_and_200_high(caltech_root, tmp_path):
    large, small = (loaded(name, caltech_root).part("test").split for name in ("caltech101-300x200", "caltech101"))
    assert DATASETS["caltech101-300x200"].shape == (3, 200, 300)
    assert large.pixels.shape == (303, 3, 200, 300)
    assert np.array_equal(large.labels, small.labels)
    assert np.array_equal(large.pixels[:, :, 0, 0], small.pixels[:, :, 0, 0]), "files of a single colour"
    # A file of that size is read as it is, red on the left and blue below; a high one is made wide.
    wide = np.zeros((200, 300, 3), dtype=np.uint8)
    wide[:, :100, 0], wide[150:, :, 2] = 255, 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "high.png")
    files = [tmp_path / "wide.png", tmp_path / "high.png"]
    read, scaled = images.coloured("dataset", tmp_path, files, 200, 300, resize=True)
    assert np.array_equal(read.transpose(1, 2, 0), wide)
    assert np.array_equal(scaled.transpose(1, 2, 0), np.asarray(Image.open(files[1]).resize((300, 200), 2)))
    with pytest.raises(DataError, match=r"high.png is 200x300 pixels, not 300x200"):
        images.coloured("dataset", tmp_path, files, 200, 300, resize=False)


@pytest.mark.parametrize("gone", ["", "class_050"])
def test_what_is_missing_of_caltech_is_named_with_where_all_of_it_belongs(caltech_root, tmp_path, gone):
    home = linked(caltech_root, tmp_path / "data") / "caltech101" / "101_ObjectCategories"
    shutil.rmtree(home / gone)
    with pytest.raises(DataError, match="has 100 class folders" if gone else "has 0 class folders") as raised:
        loaded("caltech101", tmp_path / "data").part("test")
    wanted = (str(home), "--data-root", "caltech101/101_ObjectCategories/CLASS/*.jpg", "data.caltech.edu")
    assert all(text in str(raised.value) for text in wanted)


def test_caltech_with_too_few_images_or_a_damaged_one_is_a_data_error(caltech_root, tmp_path):
    home = linked(caltech_root, tmp_path / "data") / "caltech101" / "101_ObjectCategories"
    for image in (home / "class_004").glob("*.jpg"):
        image.unlink()
        image.write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"class_004/image_.*jpg cannot be decoded"):
        loaded("caltech101", tmp_path / "data").part("train")
    for i in range(10):
        for image in home.glob(f"class_*/image_{i:04}.jpg"):
            image.unlink()
    with pytest.raises(DataError, match=r"the 505 images in .* are too few"):
        loaded("caltech101", tmp_path / "data").part("train")


@pytest.mark.parametrize("size", [(90, 131), (64, 200), (40, 50)])
def test_images_are_scaled_bilinearly_with_antialiasing(tmp_path, size):
    source = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(source).save(tmp_path / "noise.png")
    pixels = images.coloured("dataset", tmp_path, [tmp_path / "noise.png"], 64, 64, resize=True)
    torchs = torch.nn.functional.interpolate(
        torch.from_numpy(source).permute(2, 0, 1)[None].double(), (64, 64), mode="bilinear", antialias=True
    )
    assert np.abs(pixels - torchs.numpy()).max() <= 1.01  # rounded once for each direction


# --- folder:PATH -----------------------------------------------------------------------------------------------------

CLASSES = ("ant", "bee", "cat")


def picture(seed: int, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> Image.Image:
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def fill(folder: Path, each: int = 20, mode: str = "RGB", first: int = 0) -> Path:
    """Class folders with PNG files whose pixels follow from their number."""
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            picture(1000 * number + i + first, mode=mode).save(folder / name / f"{i:03}.png")
    return folder


def zipped(folder: Path, target: Path, top: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*"), reverse=True):  # in another order than the folder's
            if path.is_file():
                archive.write(path, f"{top}{path.relative_to(folder).as_posix()}")
    return target


def in_folder(path: Path) -> dict[str, Split]:
    dataset = loaded("folder", location=str(path))
    return {part: dataset.part(part).split for part in PARTS}


def expected_images(each: int = 20, mode: str = "RGB", first: int = 0) -> Counter[tuple[bytes, int]]:
    found: Counter[tuple[bytes, int]] = Counter()
    for number in range(len(CLASSES)):
        for i in range(each):
            array = np.asarray(picture(1000 * number + i + first, mode=mode))
            found[(array.tobytes() if mode == "L" else array.transpose(2, 0, 1).tobytes(), number)] += 1
    return found


def test_a_folder_of_classes_is_cut_into_three_stratified_parts(tmp_path):
    parts = in_folder(fill(tmp_path / "data"))
    # A fifth of 60 images is the test part, a tenth of the others the validation part.
    assert {part: len(split.labels) for part, split in parts.items()} == {"train": 44, "validation": 4, "test": 12}
    assert all(split.pixels.shape[1:] == (3, 4, 6) for split in parts.values())
    assert sum((as_images(split) for split in parts.values()), Counter()) == expected_images()
    assert np.bincount(parts["test"].labels).tolist() == [4, 4, 4]


def test_a_divided_folder_keeps_its_test_images(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", each=5, first=500)
    parts = in_folder(tmp_path)
    assert as_images(parts["test"]) == expected_images(5, first=500)
    assert as_images(parts["train"]) + as_images(parts["validation"]) == expected_images()
    assert len(parts["validation"].labels) == 6


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("top", ["", "my-data/"])
def test_a_zip_is_the_same_dataset_as_its_folder(tmp_path, divided, top):
    if divided:
        fill(tmp_path / "data" / "train")
        fill(tmp_path / "data" / "test", each=5, first=500)
    else:
        fill(tmp_path / "data")
    archive = zipped(tmp_path / "data", tmp_path / "data.zip", top)
    one, other = (loaded("folder", location=str(path)) for path in (tmp_path / "data", archive))
    assert {part: one.part(part).sha256 for part in PARTS} == {part: other.part(part).sha256 for part in PARTS}
    assert len({one.part(part).sha256 for part in PARTS}) == 3
    assert (one.shape, one.classes) == (other.shape, other.classes) == ((3, 4, 6), 3)


def test_grey_images_keep_one_channel(tmp_path):
    parts = in_folder(fill(tmp_path / "data", mode="L"))
    assert all(split.pixels.shape[1:] == (1, 4, 6) for split in parts.values())
    assert sum((as_images(split) for split in parts.values()), Counter()) == expected_images(mode="L")


def test_images_of_unequal_size_are_refused_by_name(tmp_path):
    fill(tmp_path / "data")
    picture(7, size=(6, 5)).save(tmp_path / "data" / "bee" / "odd.png")
    with pytest.raises(DataError, match=r"bee/odd\.png.*one size"):
        in_folder(tmp_path / "data")


def test_grey_beside_coloured_images_is_refused_by_name(tmp_path):
    fill(tmp_path / "data")
    picture(7, mode="L").save(tmp_path / "data" / "bee" / "odd.png")
    with pytest.raises(DataError, match=r"bee/odd\.png"):
        in_folder(tmp_path / "data")


def damaged(kind: str) -> bytes:
    buffer = io.BytesIO()
    picture(7).save(buffer, "PNG")
    whole = buffer.getvalue()
    start = whole.index(b"IDAT")
    (length,) = struct.unpack(">I", whole[start - 4 : start])
    if kind == "garbage":
        return b"not an image"
    if kind == "empty":
        return b""
    if kind == "truncated":
        return whole[: start + length // 2]
    packed = b"\x78\x9c" + bytes(length - 2)  # a chunk with a right checksum whose content does not unpack
    checksum = struct.pack(">I", zlib.crc32(b"IDAT" + packed))
    return whole[: start + 4] + packed + checksum + whole[start + 8 + length :]


@pytest.mark.parametrize("kind", ["garbage", "empty", "truncated", "bad content"])
@pytest.mark.parametrize("in_zip", [False, True])
def test_a_file_that_cannot_be_decoded_is_named(tmp_path, kind, in_zip):
    fill(tmp_path / "data")
    (tmp_path / "data" / "cat" / "broken.png").write_bytes(damaged(kind))
    path = zipped(tmp_path / "data", tmp_path / "data.zip") if in_zip else tmp_path / "data"
    with pytest.raises(DataError, match=r"cat/broken\.png"):
        in_folder(path)


def test_a_damaged_member_of_a_zip_is_named(tmp_path):
    archive = zipped(fill(tmp_path / "data"), tmp_path / "data.zip")
    stored = (tmp_path / "data" / "cat" / "003.png").read_bytes()
    body = archive.read_bytes()
    at = body.index(stored) + len(stored) // 2
    archive.write_bytes(body[:at] + bytes([body[at] ^ 255]) + body[at + 1 :])
    with pytest.raises(DataError, match=r"cat/003\.png"):
        in_folder(archive)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "data" / "ant").mkdir(parents=True)
    (tmp_path / "data" / "ant" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"data.*holds no images"):
        in_folder(tmp_path / "data")


@pytest.mark.parametrize("there", [False, True])
def test_what_is_neither_folder_nor_zip_is_refused(tmp_path, there):
    path = tmp_path / "nowhere.zip"
    if there:
        path.write_bytes(b"not a zip")
    with pytest.raises(DataError, match=r"nowhere\.zip.*no such folder or zip"):
        in_folder(path)


def test_images_beside_the_class_folders_are_refused(tmp_path):
    fill(tmp_path / "data")
    picture(7).save(tmp_path / "data" / "stray.png")
    with pytest.raises(DataError, match="CLASS/"):
        in_folder(tmp_path / "data")


@pytest.mark.parametrize("each", [1, 2])
def test_a_folder_with_too_few_images_is_a_data_error(tmp_path, each):
    with pytest.raises(DataError):
        in_folder(fill(tmp_path / "data", each=each))


def test_what_a_mac_adds_to_a_zip_is_not_taken_for_images(tmp_path):
    archive = zipped(fill(tmp_path / "data"), tmp_path / "data.zip", "data/")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("__MACOSX/data/ant/._000.png", b"resource fork")
    assert len(in_folder(archive)["test"].labels) == 12


def test_the_stratified_split_is_one_partition():
    labels = np.repeat(np.arange(4), [10, 20, 30, 40])
    parts = datasets.stratified(labels, {"train": 60, "validation": 10, "test": 30}, seed=0)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(100))
    assert {part: np.bincount(labels[chosen]).tolist() for part, chosen in parts.items()} == {
        "train": [6, 12, 18, 24], "validation": [1, 2, 3, 4], "test": [3, 6, 9, 12],
    }  # fmt: skip
    assert all(np.array_equal(chosen, np.sort(chosen)) for chosen in parts.values())
