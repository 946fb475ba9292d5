"""The networks of the papers: their sizes and stages, and their structure against other implementations."""

import io
import math
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import nn

from harness.errors import UsageError
from harness.networks import Classifier, parameter_count
from harness.registry.names import default_value
from harness.storage import foreign, weights
from harness_vision import harness_architectures, harness_datasets
from harness_vision.networks.normalisation import ImageStandardisation
from harness_vision.networks.wide_resnet import MadryResNet, WideResNet
from support.torch_files import refused_before_2_10

ARCHITECTURES = {arch.name: arch for arch in harness_architectures()}
GREY, COLOUR, TINY = (1, 28, 28), (3, 32, 32), (3, 64, 64)
State = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def seeded():
    """The same initial weights whatever ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def build(name: str, shape: tuple[int, int, int], classes: int, **given) -> Classifier:
    params = {key: default_value(value) for key, value in ARCHITECTURES[name].params.items()}
    assert given.keys() <= params.keys()
    return ARCHITECTURES[name].build(shape, classes, **{**params, **given}).eval()


def random_images(shape: tuple[int, int, int], n: int = 2) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


def unsettled(model: nn.Module) -> nn.Module:
    """The network in float64, with other statistics, scales and shifts in every batch norm than those of a new one."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5), (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 1.5),
            ):  # fmt: skip
                tensor.data.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
    return model.double().requires_grad_(False)


def conv(state: State, at: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    kernel = state[f"{at}.weight"]
    return F.conv2d(x, kernel, state.get(f"{at}.bias"), stride, kernel.shape[-1] // 2)


def normed(state: State, at: str, x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    def column(name: str) -> torch.Tensor:
        return state[f"{at}.{name}"].view(-1, 1, 1)

    return (x - column("running_mean")) / (column("running_var") + eps).sqrt() * column("weight") + column("bias")


# --- sizes -----------------------------------------------------------------------------------------------------------

COUNTS = [
    ("lenet5", GREY, 10, 61_706),
    ("lenet_advertorch", GREY, 10, 648_226),
    ("madry_mnist", GREY, 10, 3_274_634),
    ("small_cnn", GREY, 10, 312_202),
    ("resnet9", COLOUR, 10, 6_573_130),
    ("resnet18", COLOUR, 10, 11_173_962),
    ("resnet18", TINY, 200, 11_271_432),
    ("resnet20", COLOUR, 10, 269_722),
    ("resnet32", COLOUR, 10, 464_154),
    ("resnet34", COLOUR, 10, 21_282_122),
    ("preact_resnet18", TINY, 200, 11_576_840),
    ("vgg16", COLOUR, 10, 14_728_266),
    ("vgg16", TINY, 200, 14_825_736),
    ("wrn28_10", COLOUR, 10, 36_479_194),
    ("wrn34_10", COLOUR, 10, 46_160_474),
    # The 1x1 convolutions of the shortcuts are what the Madry network lacks beside wrn34_10.
    ("resnet32_wide", COLOUR, 10, 46_160_474 - (16 * 160 + 160 * 320 + 320 * 640)),
]


@pytest.mark.parametrize(("name", "shape", "classes", "count"), COUNTS)
def test_networks_have_the_published_number_of_parameters(name, shape, classes, count):
    with torch.device("meta"):
        model = build(name, shape, classes)
    assert parameter_count(model) == count
    assert f"{count:,}" in ARCHITECTURES[name].summary or shape == TINY


def test_every_network_is_counted():
    # digits_net is counted by the formula of its width, beside the digits.
    assert {name for name, *_ in COUNTS} | {"digits_net"} == set(ARCHITECTURES)


STAGES = {
    ("small_cnn", GREY): {"layer1": (32, 12, 12), "layer2": (64, 4, 4)},
    ("resnet9", COLOUR): {
        "stem": (64, 32, 32), "layer1": (128, 16, 16), "layer2": (256, 8, 8), "layer3": (512, 4, 4),
    },
    ("resnet18", TINY): {
        "stem": (64, 64, 64), "layer1": (64, 64, 64), "layer2": (128, 32, 32), "layer3": (256, 16, 16),
        "layer4": (512, 8, 8),
    },
    ("resnet32", COLOUR): {
        "stem": (16, 32, 32), "layer1": (16, 32, 32), "layer2": (32, 16, 16), "layer3": (64, 8, 8),
    },
    ("resnet34", COLOUR): {
        "stem": (64, 32, 32), "layer1": (64, 32, 32), "layer2": (128, 16, 16), "layer3": (256, 8, 8),
        "layer4": (512, 4, 4),
    },
    ("preact_resnet18", TINY): {
        "stem": (64, 64, 64), "layer1": (64, 64, 64), "layer2": (128, 32, 32), "layer3": (256, 16, 16),
        "layer4": (512, 8, 8),
    },
    ("vgg16", COLOUR): {
        "layer1": (64, 16, 16), "layer2": (128, 8, 8), "layer3": (256, 4, 4), "layer4": (512, 2, 2),
        "layer5": (512, 1, 1),
    },
    ("wrn28_10", COLOUR): {
        "stem": (16, 32, 32), "layer1": (160, 32, 32), "layer2": (320, 16, 16), "layer3": (640, 8, 8),
    },
    ("wrn34_10", COLOUR): {
        "stem": (16, 32, 32), "layer1": (160, 32, 32), "layer2": (320, 16, 16), "layer3": (640, 8, 8),
    },
    ("resnet32_wide", COLOUR): {
        "stem": (16, 32, 32), "layer1": (160, 32, 32), "layer2": (320, 16, 16), "layer3": (640, 8, 8),
    },
}  # fmt: skip
FEATURES = {
    "small_cnn": 200, "resnet9": 512, "resnet18": 512, "resnet32": 64, "resnet34": 512, "preact_resnet18": 2048,
    "vgg16": 512, "wrn28_10": 640, "wrn34_10": 640, "resnet32_wide": 640,
}  # fmt: skip


@pytest.mark.parametrize(("name", "shape"), STAGES)
def test_stages_features_and_logits_have_the_shapes_of_the_papers(name, shape):
    with torch.device("meta"):
        model = build(name, shape, 200)
        x = torch.empty(3, *shape)
        found = {stage: tuple(output.shape[1:]) for stage, output in model.stages(x).items()}
        assert model.features(x).shape == (3, FEATURES[name])
        assert model(x).shape == (3, 200)
    assert found == STAGES[name, shape]
    assert model.head.in_features == FEATURES[name]


@pytest.mark.parametrize(
    ("name", "pixels"), [("lenet5", 12), ("small_cnn", 16), ("preact_resnet18", 25), ("vgg16", 32)]
)
def test_a_network_that_needs_larger_images_says_how_large(name, pixels):
    with torch.device("meta"):
        assert build(name, (3, pixels, pixels + 9), 10)(torch.empty(2, 3, pixels, pixels + 9)).shape == (2, 10)
        with pytest.raises(UsageError, match=f"{name} needs images of at least {pixels} pixels"):
            build(name, (3, pixels + 9, pixels - 1), 10)


# --- residual networks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_resnet_is_torchvisions_with_a_3x3_stem_and_without_pooling(name):
    model = unsettled(build(name, COLOUR, 10))
    other = getattr(torchvision.models, name)(num_classes=10)
    other.conv1, other.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    ours, theirs = model.state_dict(), other.state_dict()
    other.load_state_dict(dict(zip(theirs, ours.values(), strict=True)))
    x = random_images(COLOUR).double()
    torch.testing.assert_close(model(x), other.double().eval()(x))


def test_an_option_a_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides():
    block = build("resnet32", COLOUR, 10).layer2[0].requires_grad_(False)
    assert [name for name, _ in block.named_parameters() if name.startswith("shortcut")] == []
    block.conv2.weight.zero_()  # what is left is ReLU(shortcut)
    x = random_images((16, 6, 6)) - 0.25
    expected = np.zeros((2, 32, 3, 3), dtype=np.float32)
    for channel in range(16):
        for row in range(3):
            for column in range(3):
                expected[:, 8 + channel, row, column] = np.maximum(x[:, channel, 2 * row, 2 * column].numpy(), 0)
    assert np.array_equal(block(x).numpy(), expected)


@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 3), ("resnet32", 5)])
def test_thin_resnets_are_n_blocks_in_each_of_three_stages(name, blocks):
    model = unsettled(build(name, COLOUR, 10))
    state = model.state_dict()
    x = random_images(COLOUR).double()
    out = F.relu(normed(state, "stem.1", conv(state, "stem.0", x)))
    for stage in (1, 2, 3):
        for block in range(blocks):
            at, smaller = f"layer{stage}.{block}", stage > 1 and block == 0
            inner = F.relu(normed(state, f"{at}.bn1", conv(state, f"{at}.conv1", out, 2 if smaller else 1)))
            inner = normed(state, f"{at}.bn2", conv(state, f"{at}.conv2", inner))
            if smaller:
                zeros = torch.zeros_like(out[:, ::2, ::2, ::2])
                out = torch.cat([zeros, out[:, :, ::2, ::2], zeros], dim=1)
            out = F.relu(inner + out)
    assert len(state) == 2 + 6 * (1 + 6 * blocks)  # nothing is left over: head, convolutions and batch norms
    torch.testing.assert_close(model(x), F.linear(out.mean((2, 3)), state["head.weight"], state["head.bias"]))


def test_resnet9_is_the_published_sequence():
    model = unsettled(build("resnet9", (3, 16, 16), 10))
    state = model.state_dict()

    def layer(at: str, x: torch.Tensor) -> torch.Tensor:
        return F.relu(normed(state, f"{at}.1", conv(state, f"{at}.0", x)))

    def residual(at: str, x: torch.Tensor) -> torch.Tensor:
        return x + layer(f"{at}.body.1", layer(f"{at}.body.0", x))

    x = random_images((3, 16, 16)).double()
    out = residual("layer1.2", F.max_pool2d(layer("layer1.0", layer("stem", x)), 2))
    out = F.max_pool2d(layer("layer2.0", out), 2)
    out = residual("layer3.2", F.max_pool2d(layer("layer3.0", out), 2))
    out = F.max_pool2d(out, out.shape[-1]).flatten(1)
    torch.testing.assert_close(model(x), F.linear(out, state["head.weight"], state["head.bias"]))


# --- pre-activation --------------------------------------------------------------------------------------------------


def preactivated(state: State, x: torch.Tensor, stages: int, blocks: int) -> torch.Tensor:
    """The last map of a network of pre-activation blocks, shortcuts convolved from what is activated."""
    x = conv(state, "stem", x)
    for stage in range(1, stages + 1):
        for block in range(blocks):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            active = F.relu(normed(state, f"{at}.bn1", x))
            out = conv(state, f"{at}.conv1", active, stride)
            out = conv(state, f"{at}.conv2", F.relu(normed(state, f"{at}.bn2", out)))
            shortcut = f"{at}.shortcut"
            x = out + (conv(state, shortcut, active, stride) if f"{shortcut}.weight" in state else x)
    return F.relu(normed(state, "bn", x))


def test_a_wide_resnet_activates_before_it_convolves():
    model = unsettled(WideResNet((3, 8, 8), 4, widths=(20, 24, 28), blocks=3).eval())
    state = model.state_dict()
    shortcuts = {name: tuple(tensor.shape) for name, tensor in state.items() if "shortcut" in name}
    assert shortcuts == {
        "layer1.0.shortcut.weight": (20, 16, 1, 1), "layer2.0.shortcut.weight": (24, 20, 1, 1),
        "layer3.0.shortcut.weight": (28, 24, 1, 1),
    }  # fmt: skip
    x = random_images((3, 8, 8), 5).double()
    features = preactivated(state, x, stages=3, blocks=3).mean(dim=(2, 3))
    torch.testing.assert_close(model.features(x), features)
    torch.testing.assert_close(model(x), F.linear(features, state["head.weight"], state["head.bias"]))


def test_preact_resnet18_averages_squares_of_16_pixels():
    model = unsettled(build("preact_resnet18", TINY, 200))
    state = model.state_dict()
    assert "layer1.0.shortcut.weight" not in state  # 64 channels already
    x = random_images(TINY, 1).double()
    last = preactivated(state, x, stages=4, blocks=2)
    corners = [last[:, :, rows, columns].mean((2, 3)) for rows in halves() for columns in halves()]
    features = torch.stack(corners, dim=2).flatten(1)  # channel by channel, its four squares row by row
    torch.testing.assert_close(model(x), F.linear(features, state["head.weight"], state["head.bias"]))


def halves() -> tuple[slice, slice]:
    return slice(0, 4), slice(4, 8)


def test_the_madry_network_has_leaky_units_and_shortcuts_without_parameters():
    model = unsettled(MadryResNet((3, 8, 8), 4, widths=(20, 24, 28), blocks=2).eval())
    state = model.state_dict()
    assert not any("shortcut" in name for name in state)

    def active(at: str, x: torch.Tensor) -> torch.Tensor:
        x = normed(state, at, x, eps=1e-3)
        return torch.where(x < 0, 0.1 * x, x)

    x = random_images((3, 8, 8), 5).double()
    mean, deviation = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), correction=0, keepdim=True)
    out = conv(state, "stem", (x - mean) / deviation)
    for stage in (1, 2, 3):
        for block in range(2):
            at, first, smaller = f"layer{stage}.{block}", block == 0, stage > 1 and block == 0
            inner = active(f"{at}.bn1", out)
            around = inner if stage == 1 and first else out
            inner = conv(state, f"{at}.conv1", inner, 2 if smaller else 1)
            inner = conv(state, f"{at}.conv2", active(f"{at}.bn2", inner))
            if smaller:
                around = sum(around[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
            missing = (inner.shape[1] - around.shape[1]) // 2
            zeros = around.new_zeros(len(x), missing, *around.shape[2:])
            out = inner + torch.cat([zeros, around, zeros], dim=1)
    features = active("bn", out).mean((2, 3))
    torch.testing.assert_close(model(x), F.linear(features, state["head.weight"], state["head.bias"]))


@pytest.mark.parametrize("kind", [WideResNet, MadryResNet])
def test_wide_networks_start_with_deviations_from_the_outputs_of_a_kernel(kind):
    model = kind((3, 8, 8), 10, widths=(64, 96, 128), blocks=2)
    kernels = {
        name: m.weight for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
    }
    assert len(kernels) == 13
    for name, kernel in kernels.items():
        wanted = math.sqrt(2 / (9 * kernel.shape[0]))
        # Four deviations of the estimate from that many numbers.
        assert kernel.std().item() == pytest.approx(wanted, rel=4 / math.sqrt(2 * kernel.numel())), name
    assert not model.head.bias.any()


# --- normalisation inside the network --------------------------------------------------------------------------------


def test_standardisation_is_tensorflows_on_255_levels():
    x = random_images((3, 5, 7), 4)
    x[1] = 0.5 + 1e-4 * (x[1] - 0.5)  # below the smallest deviation, 1 / sqrt(105) levels
    x[2] = 0.3  # constant
    expected = []
    for image in x.double().numpy() * 255:
        floor = 1 / np.sqrt(image.size)
        expected.append((image - image.mean()) / max(image.std(), floor))
    found = ImageStandardisation()(x)
    assert np.abs(expected[1]).max() < 0.5  # the floor is in force
    np.testing.assert_allclose(found.numpy(), np.stack(expected), atol=1e-3)


def test_a_constant_image_has_a_finite_gradient_through_standardisation():
    x = torch.full((1, 3, 4, 4), 0.3, requires_grad=True)
    (gradient,) = torch.autograd.grad(ImageStandardisation()(x)[0, 0, 0, 0], x)
    assert torch.isfinite(gradient).all()


def test_the_madry_network_does_not_see_brightness_or_contrast():
    model = MadryResNet((3, 8, 8), 4, widths=(20, 24, 28), blocks=1).eval()
    x = random_images((3, 8, 8))
    torch.testing.assert_close(model(0.5 * x + 0.3), model(x), rtol=1e-4, atol=1e-4)


def test_resnet32_normalises_inside_where_it_is_told_to():
    inside = build("resnet32", COLOUR, 10, normalisation="imagenet").double()
    bare = build("resnet32", COLOUR, 10).double()
    inside.load_state_dict(bare.state_dict(), strict=True)  # constants are no weights
    x = random_images(COLOUR).double()
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    by_hand = torch.from_numpy((x.numpy() - mean[:, None, None]) / deviation[:, None, None])
    with torch.no_grad():
        torch.testing.assert_close(inside(x), bare(by_hand), rtol=1e-5, atol=1e-5)  # the constants are float32
        assert not torch.allclose(inside(x), bare(x), rtol=1e-2)


def test_imagenets_normalisation_is_for_three_colours():
    with pytest.raises(UsageError, match="3 channels, not 1"):
        build("resnet32", GREY, 10, normalisation="imagenet")


# --- VGG and SmallCNN ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [COLOUR, TINY])
def test_vgg16_is_torchvisions_configuration_d_pooled_to_one_pixel(shape):
    model = unsettled(build("vgg16", shape, 10))
    body = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"], batch_norm=True)
    ours = [tensor for name, tensor in model.state_dict().items() if not name.startswith("head")]
    body.load_state_dict(dict(zip(body.state_dict(), ours, strict=True)))
    x = random_images(shape).double()
    out = body.double().eval()(x)
    features = out.amax(dim=(2, 3))  # 1x1, or 2x2 with one more pooling
    torch.testing.assert_close(model.features(x), features)


def test_small_cnn_is_the_published_sequence():
    model = build("small_cnn", GREY, 10).requires_grad_(False)
    state = model.state_dict()

    def unpadded(at: str, x: torch.Tensor) -> torch.Tensor:
        return F.relu(F.conv2d(x, state[f"{at}.weight"], state[f"{at}.bias"]))

    def linear(at: str, x: torch.Tensor) -> torch.Tensor:
        return x @ state[f"{at}.weight"].T + state[f"{at}.bias"]

    x = random_images(GREY)
    out = F.max_pool2d(unpadded("layer1.2", unpadded("layer1.0", x)), 2)
    out = F.max_pool2d(unpadded("layer2.2", unpadded("layer2.0", out)), 2).flatten(1)
    first = F.relu(linear("hidden1", out))
    torch.testing.assert_close(model(x), linear("head", F.relu(linear("hidden2", first))))
    torch.manual_seed(0)
    dropped = F.dropout(first, 0.5)
    torch.manual_seed(0)
    torch.testing.assert_close(model.train()(x), linear("head", F.relu(linear("hidden2", dropped))))


def test_small_cnn_starts_from_a_head_of_zeros_where_it_is_told_to():
    assert not build("small_cnn", GREY, 10, zero_head=True)(random_images(GREY)).any()
    assert build("small_cnn", GREY, 10)(random_images(GREY)).any()


# --- recipes and public weights --------------------------------------------------------------------------------------


def test_recipes_name_networks_that_fit_their_datasets():
    recipes = [(data, recipe) for data in harness_datasets() for recipe in data.recipes]
    for data, recipe in recipes:
        with torch.device("meta"):
            model = build(recipe.arch, data.shape or COLOUR, data.classes or 10)
            x = torch.empty(2, *(data.shape or COLOUR))
            assert model(x).shape == (2, data.classes or 10), (data.name, recipe.name)
    papers = {data.name: recipe.arch for data, recipe in recipes if recipe.name == "aalp"}
    assert papers == {"mnist": "madry_mnist", "svhn": "resnet9", "cifar10": "resnet32"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "sha256", "accuracy"),
    [
        ("resnet20", "resnet20-12fca82f.th", "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8", 81.3),
        ("resnet32", "resnet32-d509ac18.th", "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850", 83.7),
    ],
)
@refused_before_2_10
def test_the_public_weights_reach_their_accuracy(name, file, sha256, accuracy, shared, tmp_path):
    target = tmp_path / "converted.safetensors"
    renamed = {"conv1": "stem.0", "bn1": "stem.1", "linear": "head"}
    foreign.convert(shared / "models" / file, target, sha256, renamed)
    model = build(name, COLOUR, 10, normalisation="imagenet")
    model.load_state_dict(weights.read(target), strict=True)
    with zipfile.ZipFile(shared / "data" / "cifar10-jpeg.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".jpg") and n.split("/")[-3] == "test")
        classes = sorted({n.split("/")[-2] for n in names})
        chosen = [names[i] for i in np.random.default_rng(0).permutation(len(names))[:600]]
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(n)))) for n in chosen])
    x = torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float() / 255
    with torch.no_grad():
        predicted = torch.cat([model(part).argmax(dim=1) for part in x.split(100)])
    found = np.mean([classes[p] == n.split("/")[-2] for p, n in zip(predicted.tolist(), chosen, strict=True)])
    # Three deviations of a share from 600 images, and of the stated one from 2,000.
    assert 100 * found == pytest.approx(accuracy, abs=300 * math.sqrt(0.83 * 0.17 * (1 / 600 + 1 / 2000)))
