"""Augmentation: against torchvision on given windows, and by the properties of what is drawn."""

import math
from typing import get_args, get_type_hints

import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional

from harness.training import augmentation
from harness.training.augmentation import Windows, crop_flip, draw_windows, flip, resized, resized_crop_flip
from harness.types import Recipe
from support.training import toy_recipe, training_context


def test_crop_flip_gives_windows_of_the_padded_image_or_of_its_mirror():
    torch.manual_seed(0)
    x = torch.rand(40, 3, 6, 6)
    out = crop_flip(x)
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4))
    mirrored = 0
    for image, source in zip(out, padded, strict=True):
        windows = [source[:, t : t + 6, s : s + 6] for t in range(9) for s in range(9)]
        plain = any(torch.equal(image, window) for window in windows)
        flipped = any(torch.equal(image, window.flip(2)) for window in windows)
        assert plain or flipped
        mirrored += flipped and not plain
    assert 8 < mirrored < 32


def test_flip_turns_half_of_the_images_and_leaves_the_others():
    torch.manual_seed(0)
    x = torch.rand(400, 2, 3, 5)
    out = flip(x)
    turned = [torch.equal(new, old.flip(2)) for new, old in zip(out, x, strict=True)]
    kept = [torch.equal(new, old) for new, old in zip(out, x, strict=True)]
    assert all(a != b for a, b in zip(turned, kept, strict=True))
    assert 160 < sum(turned) < 240


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (12, 20)])
def test_windows_are_scaled_as_torchvision_scales_them(size):
    torch.manual_seed(1)
    x = torch.rand(60, 3, *size)
    windows = draw_windows(len(x), *size)
    found = resized(x, windows)
    for i, (top, left, height, width) in enumerate(zip(*(part.tolist() for part in windows), strict=True)):
        for antialias in (False, True):
            wanted = functional.resized_crop(x[i], top, left, height, width, list(size), antialias=antialias)
            assert torch.allclose(found[i], wanted, atol=2e-6), (i, top, left, height, width)


def test_a_window_of_the_whole_image_is_the_image():
    x = torch.rand(3, 1, 7, 9)
    whole = Windows(*(torch.full((3,), value) for value in (0, 0, 7, 9)))
    assert torch.equal(resized(x, whole), x)


@pytest.mark.parametrize("size", [(32, 32), (64, 64)])
def test_windows_are_drawn_as_torchvision_draws_them(size):
    """The same distribution: tops, lefts, heights and widths have equal means, deviations and extremes."""
    n = 6000
    torch.manual_seed(2)
    found = torch.stack(draw_windows(n, *size)).double()
    image = torch.empty(1, *size)
    drawn = [RandomResizedCrop.get_params(image, [0.45, 1.0], [3 / 4, 4 / 3]) for _ in range(n)]
    wanted = torch.tensor(drawn).double().T
    for ours, theirs in zip(found, wanted, strict=True):
        assert abs(ours.mean() - theirs.mean()) < 5 * theirs.std() * math.sqrt(2 / n)
        assert ours.std() == pytest.approx(theirs.std().item(), rel=0.06)
        assert abs(ours.min() - theirs.min()) <= 1
        assert abs(ours.max() - theirs.max()) <= 1
    share = found[2] * found[3] / (size[0] * size[1])
    assert share.min() > 0.42
    assert share.mean() == pytest.approx((wanted[2] * wanted[3]).mean().item() / (size[0] * size[1]), rel=0.02)


@pytest.mark.parametrize("size", [(4, 40), (40, 4), (3, 4)])
def test_windows_lie_inside_images_that_hardly_any_aspect_fits(size):
    torch.manual_seed(3)
    top, left, height, width = draw_windows(500, *size)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= size[0]).all()
    assert (left + width <= size[1]).all()
    assert (height > 0).all()
    assert (width > 0).all()
    if max(size) > 10:
        # torchvision's last resort: the largest middle part of an aspect that is allowed.
        inside = RandomResizedCrop.get_params(torch.empty(1, *size), [0.45, 1.0], [3 / 4, 4 / 3])
        assert {tuple(window) for window in torch.stack((top, left, height, width)).T.tolist()} == {inside}


@pytest.mark.parametrize("name", augmentation.AUGMENTATIONS)
def test_what_is_drawn_follows_torchs_generator_and_differs_between_images(name):
    change = augmentation.AUGMENTATIONS[name]
    x = torch.rand(1, 3, 16, 16).expand(64, -1, -1, -1).contiguous()
    before = x.clone()
    results = []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        results.append(change(x))
    first, again, other = results
    assert torch.equal(x, before)
    assert torch.equal(first, again)
    assert first.shape == x.shape
    assert 0 <= first.min() <= first.max() <= 1
    kinds = len({tuple(image.flatten().tolist()) for image in first})
    assert kinds == {"none": 1, "flip": 2}.get(name, kinds)
    if name != "none":
        assert not torch.equal(first, other)
    if name.endswith("crop-flip"):
        assert kinds > 30


def test_resized_crops_are_flipped_too():
    torch.manual_seed(6)
    ramp = torch.linspace(0, 1, 16).expand(200, 1, 16, 16)
    rising = (resized_crop_flip(ramp)[:, 0, 8].diff(dim=1).sum(dim=1) > 0).sum()
    assert 70 < rising < 130


@pytest.mark.parametrize("name", augmentation.AUGMENTATIONS)
def test_a_training_augments_as_its_recipe_says(name):
    x = torch.rand(16, 1, 8, 8)
    ctx = training_context(toy_recipe(augment=name), step=0.05)
    torch.manual_seed(7)
    found = ctx.augment(x)
    torch.manual_seed(7)
    assert torch.equal(found, augmentation.AUGMENTATIONS[name](x))


def test_every_augmentation_that_a_recipe_may_name_is_there():
    assert set(get_args(get_type_hints(Recipe)["augment"])) == set(augmentation.AUGMENTATIONS)
