"""harness_preprocessing against Pillow's JPEG, closed forms, a quadratic programme and loops over single images."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.optimize import lsq_linear
from torch import nn

from harness.api import UsageError
from harness.conformance import toys
from harness.conformance.toy_training import DATASET
from harness.planning.plan import plan
from harness.planning.request import Request
from harness.registry import discovery
from harness.training.peers import Peers
from harness_preprocessing import bits, harness_defenses, jpeg, resize, variation
from harness_preprocessing.preprocessed import Preprocessed, cubic, nearest, straight
from support.training import toy_recipe, training_context

DEFENSES = {defense.name: defense for defense in harness_defenses()}
DEFAULTS = {"jpeg": {"quality": 75}, "bit_depth": {"bits": 3}, "total_variation": {"weight": 0.1, "iterations": 50}}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def picture(n: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Smooth images with whole levels, more like photographs than noise is."""
    coarse = drawn(n, channels, max(2, height // 5), max(2, width // 5))
    x = F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    return (x * 255).round() / 255


def deployed(name: str, network: nn.Module, **params: float) -> nn.Module:
    return DEFENSES[name].wrap(network, base="raw", **{**DEFAULTS.get(name, {}), **params}).eval()


def peers(uses: tuple[str, ...] | None) -> Peers:
    return Peers(
        registry=discovery.discover(), dataset=DATASET, data_sha256="cd" * 32, seed=0, uses=uses,
        network_of=lambda name, eps: None, train=toys.toy_part,
    )  # fmt: skip


def gradient_of(operation, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    point = x.clone().requires_grad_(True)
    return torch.autograd.grad((operation(point) * weight).sum(), point)[0]


# --- roundings -------------------------------------------------------------------------------------------------------


def test_roundings_have_the_gradient_that_they_name():
    v = torch.tensor([-1.75, -0.5, 0.0, 0.2, 0.49, 1.4])
    assert nearest(v).tolist() == [-2.0, -1.0, 0.0, 0.0, 0.0, 1.0]
    assert torch.equal(straight(v), nearest(v))
    assert torch.equal(cubic(v), nearest(v))
    assert torch.equal(gradient_of(straight, v, torch.ones(6)), torch.ones(6))
    expected = torch.tensor([3 * 0.25**2, 0.75, 0.0, 3 * 0.2**2, 3 * 0.49**2, 3 * 0.4**2])
    assert torch.allclose(gradient_of(cubic, v, torch.ones(6)), expected, atol=1e-5)


# --- JPEG ------------------------------------------------------------------------------------------------------------


def by_pillow(x: torch.Tensor, quality: int) -> np.ndarray:
    found = []
    for image in (x * 255).round().to(torch.uint8).numpy():
        file = io.BytesIO()
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
        decoded = np.asarray(Image.open(file))
        found.append(decoded[None] if len(image) == 1 else decoded.transpose(2, 0, 1))
    return np.stack(found).astype(float)


@pytest.mark.parametrize("quality", [10, 50, 75, 95])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 37, 23)], ids=str)
def test_jpeg_gives_what_a_file_of_pillow_gives(quality, shape):
    x = picture(8, *shape)
    ours = (jpeg.Jpeg(quality, straight)(x) * 255).round().numpy()
    theirs = by_pillow(x, quality)
    assert np.abs(theirs - (x * 255).round().numpy()).mean() > 0.3, "the oracle compresses"
    # libjpeg transforms in integers, so that some coefficients on the edge of a step fall to its other side.
    assert np.abs(ours - theirs).mean() < 0.45
    assert (np.abs(ours - theirs) <= 2).mean() > 0.93


def test_jpeg_gives_an_image_alone_what_it_gives_in_a_batch():
    x, operation = drawn(64, 3, 16, 16), jpeg.Jpeg(75, straight)
    together = operation(x)
    assert torch.equal(torch.cat([operation(one) for one in x.split(1)]), together)
    assert torch.equal((together * 255).round() / 255, together)


def test_gradients_pass_a_grey_jpeg_unchanged_and_a_cubic_one_where_coefficients_are_between_steps():
    x, weight = drawn(2, 1, 8, 8), drawn(2, 1, 8, 8, seed=1)
    assert torch.allclose(gradient_of(jpeg.Jpeg(30, straight), x, weight), weight, atol=1e-5)
    # By hand: the transform of the weight, times 3 (c/q - r)^2 in every coefficient, back.
    k = np.arange(8)
    dct = np.sqrt(np.where(k == 0, 1, 2)[:, None] / 8) * np.cos(np.pi * (2 * k[None] + 1) * k[:, None] / 16)
    table = np.floor((np.array(jpeg.LUMINANCE) * (5000 // 30) + 50) / 100).clip(1, 255)
    for i in range(2):
        v = dct @ (np.round(x[i, 0].numpy() * 255.0) - 128) @ dct.T / table
        seen = dct @ weight[i, 0].numpy() @ dct.T * 3 * (v - np.round(v)) ** 2
        found = gradient_of(jpeg.Jpeg(30, cubic), x[i : i + 1], weight[i : i + 1])[0, 0].numpy()
        assert np.allclose(found, dct.T @ seen @ dct, atol=1e-3)


def test_jpeg_refuses_what_it_cannot_compress():
    for quality in (0, 101, 7.5):
        with pytest.raises(UsageError, match="quality"):
            jpeg.Jpeg(quality, straight)
    with pytest.raises(UsageError, match="2 channels"):
        jpeg.Jpeg(75, straight)(torch.zeros(1, 2, 8, 8))


# --- bit depth -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [1, 2, 3, 8])
def test_bits_are_those_of_counting_levels(kept):
    x = torch.linspace(0, 1, 1001).view(1, 1, 7, 143)
    found = bits.BitDepth(kept, straight)(x)
    values = np.arange(2**kept) / (2**kept - 1)
    nearest_level = np.abs(x.numpy()[..., None] - values).min(axis=-1)
    assert np.allclose(np.abs((found - x).numpy()), nearest_level, atol=2e-3 / (2**kept - 1))
    assert len(found.unique()) == 2**kept
    assert torch.equal(gradient_of(bits.BitDepth(kept, straight), x, torch.ones_like(x)), torch.ones_like(x))


@pytest.mark.parametrize("kept", [0, 9, 2.5])
def test_bits_that_are_none_are_refused(kept):
    with pytest.raises(UsageError, match="bits"):
        bits.BitDepth(kept, straight)


# --- total variation -------------------------------------------------------------------------------------------------


def objective(z: np.ndarray, x: np.ndarray, weight: float) -> float:
    variation_ = np.abs(np.diff(z, axis=0)).sum() + np.abs(np.diff(z, axis=1)).sum()
    return 0.5 * ((z - x) ** 2).sum() + weight * variation_


def by_quadratic_programme(x: np.ndarray, weight: float) -> np.ndarray:
    """The same minimum by another road: least squares over the dual's box."""
    h, w = x.shape
    rows = []
    for i in range(h):
        for j in range(w):
            for a, b in ((i + 1, j), (i, j + 1)):
                if a < h and b < w:
                    row = np.zeros((h, w))
                    row[a, b], row[i, j] = 1.0, -1.0
                    rows.append(row.ravel())
    d = np.array(rows)
    solved = lsq_linear(weight * d.T, x.ravel(), bounds=(-1, 1), tol=1e-12, max_iter=500)
    return x - (weight * d.T @ solved.x).reshape(h, w)


@pytest.mark.parametrize("weight", [0.02, 0.1, 0.5])
def test_total_variation_reaches_the_minimum_that_a_quadratic_programme_finds(weight):
    x = drawn(3, 2, 5, 6)
    found = variation.TotalVariation(weight, 2000)(x).numpy()
    short = variation.TotalVariation(weight, 50)(x).numpy()
    for i in range(3):
        for channel in range(2):
            image = x[i, channel].numpy().astype(float)
            best = by_quadratic_programme(image, weight)
            assert np.allclose(found[i, channel], best, atol=2e-3)
            least = objective(best, image, weight)
            assert least - 1e-6 <= objective(short[i, channel], image, weight) < 1.02 * least + 1e-6
            assert objective(image, image, weight) > 1.05 * least


def test_total_variation_knows_its_extremes():
    x = drawn(2, 1, 8, 8)
    assert torch.equal(variation.TotalVariation(0, 50)(x), x)
    flat = variation.TotalVariation(20.0, 5000)(x)
    assert torch.allclose(flat, x.mean(dim=(2, 3), keepdim=True).expand_as(x), atol=2e-3)
    for weight, iterations in ((-1, 50), (float("nan"), 50), (0.1, 0)):
        with pytest.raises(UsageError, match="weight"):
            variation.TotalVariation(weight, iterations)


def test_total_variation_is_differentiated_and_its_stand_in_hands_the_gradient_over():
    x, weight = 0.2 + 0.6 * drawn(1, 1, 6, 6), drawn(1, 1, 6, 6, seed=1)
    operation = variation.TotalVariation(0.05, 30).double()
    x, weight = x.double(), weight.double()
    found, step = gradient_of(operation, x, weight), 1e-6
    for i, j in ((0, 0), (2, 3), (5, 1)):
        moved = torch.zeros_like(x)
        moved[0, 0, i, j] = step
        slope = ((operation(x + moved) - operation(x - moved)) * weight).sum() / (2 * step)
        assert float(found[0, 0, i, j]) == pytest.approx(float(slope), abs=1e-5)
    assert torch.equal(gradient_of(variation.Straight(operation), x, weight), weight)
    assert torch.equal(variation.Straight(operation)(x), operation(x))


# --- resizing and padding --------------------------------------------------------------------------------------------


def test_images_are_placed_as_interpolation_and_padding_place_them_one_by_one():
    x = drawn(5, 3, 8, 12)
    rows, columns = torch.tensor([8, 6, 7, 6, 1]), torch.tensor([12, 9, 10, 12, 2])
    top, left = torch.tensor([0, 2, 1, 0, 7]), torch.tensor([0, 3, 0, 0, 4])
    found = resize.placed(x, rows, columns, top, left)
    for i in range(5):
        h, w, t, s = (int(values[i]) for values in (rows, columns, top, left))
        small = F.interpolate(x[i : i + 1], size=(h, w), mode="bilinear")
        expected = F.pad(small, (s, 12 - w - s, t, 8 - h - t))
        assert torch.allclose(found[i : i + 1], expected, atol=1e-5)


def test_every_size_and_place_is_drawn_and_only_those():
    torch.manual_seed(0)
    seen = set()
    for _ in range(20):
        x = torch.ones(100, 1, 8, 8)
        for image in resize.ResizePad(0.75)(x)[:, 0]:
            lit = (image > 0.5).nonzero()
            first, last = lit.min(dim=0).values.tolist(), lit.max(dim=0).values.tolist()
            seen.add((last[0] - first[0] + 1, last[1] - first[1] + 1, *first))
    expected = {(size, size, i, j) for size in (6, 7, 8) for i in range(9 - size) for j in range(9 - size)}
    assert seen == expected
    with pytest.raises(UsageError, match="smallest"):
        resize.ResizePad(0)


def test_a_size_of_the_whole_image_changes_nothing():
    x = drawn(4, 1, 8, 8)
    assert torch.allclose(resize.ResizePad(1)(x), x, atol=1e-6)


# --- as defenses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(DEFENSES))
def test_the_network_is_trained_with_the_loss_of_its_base_and_deployed_behind_the_operation(name):
    network, (x, _) = toys.tiny_net(), toys.images()
    params = {} if name != "resize_pad" else {"smallest": 0.75}
    model = deployed(name, network, **params)
    assert isinstance(model, Preprocessed)
    torch.manual_seed(0)
    found = model(x)
    torch.manual_seed(0)
    assert torch.equal(found, network(model.operation(x)))
    torch.manual_seed(0)
    assert not torch.equal(model.operation(x), x)
    for base in DEFENSES[name].params["base"].values:
        ctx = training_context(toy_recipe(batch=8), step=0.05, peers=peers(DEFENSES[name].uses))
        batch = ctx.train.batch(slice(0, 8), ctx.device)
        torch.manual_seed(0)
        value = DEFENSES[name].step(network, *batch, ctx, base=base)
        torch.manual_seed(0)
        assert torch.equal(value, peers(None).loss(base)(network, *batch, ctx))


def test_each_is_attacked_without_it_and_by_those_who_know_it():
    asked = Request(defenses=sorted(DEFENSES), attacks=("pgd-20", "adaptive"), dataset="digits")
    found = plan(asked, discovery.discover())
    known = {(cell.subject.defense, cell.attack): cell.knowledge for cell in found.cells}
    for name, attacks in (
        ("jpeg", {"pgd-100@cubic", "cw_inf-100@cubic"}), ("bit_depth", {"pgd-100@cubic", "cw_inf-100@cubic"}),
        ("total_variation", {"pgd-100@identity", "cw_inf-100@identity"}), ("resize_pad", {"pgd_eot-40", "aa_rand"}),
    ):  # fmt: skip
        assert known[name, "pgd-20@base"] == "static"
        assert {known[name, attack] for attack in ("pgd-20", *attacks)} == {"adaptive"}
        assert attacks < set(DEFENSES[name].mandatory)
        assert DEFENSES[name].gated != DEFENSES[name].stochastic
