"""harness_simple_structure against autograd, PIL, scikit-learn, and section 9 of the method sheet written out."""

import copy
import io
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve
from torch import nn

from conftest import ROOT
from harness.api import DataError, NotApplicable, PluginError, Split, ThreatModel, UsageError
from harness.conformance import toys
from harness.conformance.defenses import check_defense
from harness.conformance.toy_training import DATASET
from harness.data.dataset import LoadedPart, split_sha256
from harness.networks import parameter_count, stage_outputs
from harness.registry.discovery import discover
from harness.registry.names import default_value
from harness.training.peers import Peers
from harness_gradient.published import bim_ss
from harness_simple_structure import (
    eight_bit,
    harness_analyses,
    harness_defenses,
    metrics,
    mixtures,
    sampling,
    script,
    sets,
)
from harness_simple_structure.analysis import detector as analyse
from harness_simple_structure.encoder import Encoder
from harness_simple_structure.step import loss, step
from harness_simple_structure.store import BLOCK, Store
from harness_simple_structure.structure import Structure, clean, deploy, extend
from harness_vision.networks import digits_net, lenet5, resnet34
from support.peers import PlannedAttack
from support.training import CPU

(DEFENSE,) = harness_defenses()
PARAMS = {name: default_value(value) for name, value in DEFENSE.params.items()}
REGISTRY = discover()


def structure(**given) -> Structure:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = extend(toys.tiny_net(), shape=toys.SHAPE, classes=4, **{**PARAMS, **given})
        # Another network than T, and not the zeros that H starts from, so that every term has a gradient.
        for parameter in [*model.clean.parameters(), *model.detector.parameters()]:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.train()


def in_double(model, x):
    return model.double(), x.double()


def flagged_batch(n: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, y = toys.images(n)
    return x, y, (torch.arange(n) % 3 == 0).long()


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- the loss: two losses, and who learns from which -----------------------------------------------------------------


def maps_of(network, x):
    with stage_outputs(network) as found:
        logits = network(x)
    return logits, found


def separately(model, x, y, adversarial, a, b):
    """Section 9 as two losses, each differentiated for the network that it updates: their sum and the gradients."""
    model = copy.deepcopy(model)
    frozen = copy.deepcopy(model.detector).requires_grad_(False)
    with torch.no_grad():
        _, maps = maps_of(model.clean, x)
    h_p, verdict = model.detector(maps)
    of_h = F.cross_entropy(verdict, adversarial)
    logits, maps = maps_of(model.network, x)
    h_t, _ = frozen(maps)
    difference = (h_t - h_p.detach()).abs()
    smooth = torch.where(difference < 1, difference.square() / 2, difference - 0.5).mean()
    of_t = a * F.cross_entropy(logits, y) + b * smooth
    gradients = {}
    for name, value in (("detector", of_h), ("network", of_t)):
        learner = dict(model.get_submodule(name).named_parameters())
        found = torch.autograd.grad(value, list(learner.values()))
        gradients |= {f"{name}.{key}": gradient for key, gradient in zip(learner, found, strict=True)}
    return (of_h + of_t).item(), gradients


@pytest.mark.parametrize("input", ["full", "low"])
@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.5, 3.0)])
def test_one_loss_has_the_gradients_of_the_two_published_ones(input, a, b):
    x, y, adversarial = flagged_batch()
    model, x = in_double(structure(input=input), x)
    torch.manual_seed(9)  # dropout is active in both uses of H
    expected, gradients = separately(model, x, y, adversarial, a, b)
    torch.manual_seed(9)
    found = loss(model, x, y, adversarial, a=a, b=b, match="detector")
    found.backward()
    assert found.item() == pytest.approx(expected, rel=1e-9)
    for name, parameter in model.named_parameters():
        if name.startswith("clean."):
            assert parameter.grad is None, f"{name} of P is trained"
        else:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-7, atol=1e-12)
    assert all(bool(gradient.any()) for gradient in gradients.values()), "the oracle must see every parameter"


def test_detector_learns_nothing_from_the_classifier_and_the_classifier_nothing_from_the_verdict():
    model, (x, y, adversarial) = structure(), flagged_batch()
    grads = []
    for a, flags in ((1.0, adversarial), (7.0, adversarial), (1.0, 1 - adversarial)):
        torch.manual_seed(9)
        model.zero_grad()
        loss(model, x, y, flags, a=a, b=0.0, match="detector").backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    of_h = [name for name in grads[0] if name.startswith("detector.")]
    of_t = [name for name in grads[0] if name.startswith("network.")]
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in of_h)
    assert all(torch.equal(grads[0][name], grads[2][name]) for name in of_t)
    assert not all(torch.equal(grads[0][name], grads[1][name]) for name in of_t)
    assert not all(torch.equal(grads[0][name], grads[2][name]) for name in of_h)


def test_ablations_of_what_is_matched():
    model, (x, y, adversarial) = structure(), flagged_batch()
    model.detector.eval()
    oracle = copy.deepcopy(model)
    plain = F.cross_entropy(oracle.network(x), y)
    verdict = F.cross_entropy(oracle.detector(oracle.clean.stages(x))[1], adversarial)
    features = F.smooth_l1_loss(oracle.network.features(x), oracle.clean.features(x))
    for match, b, expected in (("detector", 0.0, plain + verdict), ("features", 2.0, plain + verdict + 2 * features)):
        found = loss(copy.deepcopy(model), x, y, adversarial, a=1.0, b=b, match=match)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    loss(model, x, y, adversarial, a=1.0, b=1.0, match="random").backward()
    assert all(parameter.grad is None for parameter in model.detector.parameters()), "a random head stays as it is"
    assert all(parameter.grad is not None for parameter in model.network.parameters())


# --- P stands still, and is part of what is saved --------------------------------------------------------------------


def test_clean_network_stands_still_whatever_is_done_to_the_whole():
    model, (x, y, adversarial) = structure(), flagged_batch()
    before = tensors(model.clean)
    whole = nn.Sequential(model).train()
    assert not any(module.training for module in model.clean.modules())
    assert model.network.training
    assert model.detector.training
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    others = tensors(model.network), tensors(model.detector)
    for _ in range(3):
        optimizer.zero_grad()
        loss(model, x, y, adversarial, a=1.0, b=1.0, match="detector").backward()
        optimizer.step()
    assert equal(tensors(model.clean), before)
    assert not equal(tensors(model.network), others[0])
    assert not equal(tensors(model.detector), others[1])
    assert not whole.eval()[0].network.training


def test_answers_and_what_is_deployed_are_the_classifier_alone():
    model, (x, _, _) = structure().eval(), flagged_batch()
    assert torch.equal(model(x), model.network(x))
    assert deploy(model, **PARAMS) is model.network, "neither H nor P is part of what is judged"
    assert clean(model, **PARAMS) is model.clean
    assert not torch.equal(model.clean(x), model.network(x))


# --- a training context whose attacks and neighbours are prepared ----------------------------------------------------


def part(n: int, levels: int = 255, channels: int = 1) -> LoadedPart:
    stream = np.random.default_rng(8)
    pixels = stream.integers(0, levels + 1, (n, channels, 8, 8), dtype=np.uint8)
    split = Split(pixels=pixels, labels=np.arange(n, dtype=np.int64) % 4, levels=levels)
    return LoadedPart(split, split_sha256(split))


def installed(seed: int = 0) -> Peers:
    """The installed attacks on the toy's data."""
    return Peers(
        registry=REGISTRY, dataset=DATASET, data_sha256="0" * 64, seed=seed, uses=DEFENSE.uses,
        network_of=lambda name, eps: toys.tiny_net(), train=toys.toy_part,
    )  # fmt: skip


class CountedAttacks:
    """A training context: `changes` is what an attack adds to an image; counts what is asked of it.

    `identity`: what is to be different about an attack.
    """

    def __init__(self, train: LoadedPart, folder=None, changes=0.25) -> None:
        self.train, self.cache_dir, self.changes = train, folder, changes
        self.seed, self.device, self.progress = 0, CPU, 0.0
        self.recipe = SimpleNamespace(batch=64)
        self.identity: dict[str, object] = {}
        self.notes: list[str] = []
        self.note = self.notes.append
        self.crafted: list[int] = []
        self.killed_after: int | None = None
        self.networks = 0
        self.examples = np.arange(16)

    def network_of(self, name, eps=None):
        assert (name, eps) == ("raw", None)
        self.networks += 1
        return toys.tiny_net(seed=7)

    def attack(self, name, threat=None):
        def craft(model, x, y, examples):
            if self.killed_after is not None and len(self.crafted) >= self.killed_after:
                raise KeyboardInterrupt
            self.crafted += examples
            return (x + self.changes).clamp(0, 1)

        return PlannedAttack(craft, {**installed(self.seed).attack(name, threat).identity, **self.identity})

    def augment(self, x):
        return x.flip(3)


def test_clean_network_is_fetched_once_and_a_saved_state_needs_no_other():
    model, ctx = structure(), CountedAttacks(toys.toy_part())
    x, y = ctx.train.batch(ctx.examples, CPU)
    for _ in range(2):
        step(model, x, y, ctx, **PARAMS)
    raw = toys.tiny_net(seed=7).state_dict()
    assert ctx.networks == 1
    assert equal(model.clean.state_dict(), raw)
    resumed = structure()
    resumed.load_state_dict(model.state_dict())
    step(resumed, x, y, ctx, **PARAMS)
    assert ctx.networks == 1, "a resumed training asks for nothing"
    assert equal(resumed.clean.state_dict(), raw)


def test_step_trains_on_augmented_stored_images_of_the_same_examples(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "harness_simple_structure.step.loss",
        lambda model, x, y, adversarial, **_: seen.append((x, adversarial)) or x.sum(),
    )
    ctx = CountedAttacks(toys.toy_part())
    ctx.examples = np.array([40, 3, 77, 3, 12, 95])
    _, y = ctx.train.batch(ctx.examples, CPU)
    for ratio, changes in ((0.0, 0), (1.0, 64)):
        given = {**PARAMS, "ratio": ratio, "sets": "gaussian"}
        step(structure(), torch.full((6, *toys.SHAPE), torch.nan), y, ctx, **given)
        levels = (seen[-1][0] * 255).round().numpy().astype(int)
        expected = np.minimum(ctx.train.split.pixels[ctx.examples].astype(int) + changes, 255)[..., ::-1]
        assert np.array_equal(levels, expected)
        assert seen[-1][1].tolist() == [int(ratio)] * 6
    ctx.examples = np.arange(0)
    with pytest.raises(PluginError, match="indices of the batch"):
        step(structure(), torch.zeros(6, *toys.SHAPE), y, ctx, **PARAMS)


# --- sampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "n_sets"), [(0.5, 6), (0.3, 4), (1.0, 2)])
def test_every_set_is_drawn_as_often_as_it_should(ratio, n_sets):
    n = 60_000
    torch.manual_seed(1)
    counts = torch.bincount(sampling.draw(n, ratio, n_sets), minlength=n_sets + 1)
    for found, share in zip(counts.tolist(), [1 - ratio, *[ratio / n_sets] * n_sets], strict=True):
        assert abs(found - n * share) <= 5 * (n * share * (1 - share)) ** 0.5
    assert int(counts.sum()) == n


def test_draws_follow_the_global_generator_alone():
    torch.manual_seed(3)
    first = [sampling.draw(64, 0.5, 6) for _ in range(3)]
    torch.manual_seed(3)
    assert all(torch.equal(sampling.draw(64, 0.5, 6), expected) for expected in first)
    assert not torch.equal(first[0], first[1])


def test_ratio_of_an_epoch_is_drawn_from_its_range_by_seed_and_epoch():
    assert sampling.epoch_ratio(0.4, None, 0, 3.7) == 0.4
    drawn = [sampling.epoch_ratio(0.5, "0.3:0.7", 0, float(epoch)) for epoch in range(3000)]
    assert min(drawn) >= 0.3
    assert max(drawn) <= 0.7
    assert np.histogram(drawn, bins=8, range=(0.3, 0.7))[0].min() > 375 - 5 * 18.1  # 3000/8, five deviations
    torch.manual_seed(0)
    assert sampling.epoch_ratio(0.5, "0.3:0.7", 0, 17.999) == drawn[17]
    torch.manual_seed(1)
    assert sampling.epoch_ratio(0.9, "0.3:0.7", 0, 17.0) == drawn[17]
    assert sampling.epoch_ratio(0.5, "0.3:0.7", 1, 17.0) != drawn[17]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ratio": 1.5}, "1.5 is no share"),
        ({"ratio_range": "0.3:1.2"}, "1.2 is no share"),
        ({"ratio_range": "0.3"}, "as in 0.3:0.7"),
        ({"sets": "fgsm"}, "no set fgsm; there are: gaussian"),
    ],
)
def test_parameters_that_mean_nothing_are_refused_before_training(given, message):
    with pytest.raises(UsageError, match=message):
        structure(**given)


def test_sets_come_in_the_order_of_the_paper():
    assert sets.chosen("all") == ["gaussian", "fgsm_ss", "bim_ss", "deepfool", "cw_l2_adam100", "nst_ss"]
    assert sets.chosen("nst_ss+gaussian") == ["gaussian", "nst_ss"]
    assert set(sets.ATTACKS) == set(DEFENSE.uses) - {"raw"}


# --- sets as the published script crafts them ------------------------------------------------------------------------


def test_the_published_sets_are_the_six_of_the_script():
    assert sets.chosen("published") == [
        "gaussian", "fgsm_ss", "bim_ss", "deepfool_script", "cw_l2_adam100", "nst_ss",
    ]  # fmt: skip
    assert sets.chosen("deepfool_script+deepfool+bim_ss") == ["bim_ss", "deepfool", "deepfool_script"]


class Linear(nn.Module):
    """Two classes by the first of two pixels; the gradient of the second one is zero."""

    def forward(self, x):
        gap = 3 * x.flatten(1)[:, 0] - 1
        return torch.stack([torch.zeros_like(gap), gap], dim=1)


def test_bim_of_the_script_leaves_pixels_without_a_gradient():
    x, y = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2).repeat(2, 1, 1, 1), torch.tensor([0, 1])
    bim = partial(bim_ss, threat=ThreatModel(kind="unbounded"), size=0.001, steps=5)
    found = bim(Linear(), x, y)
    far = 0.001 + 5 * 0.001 / ((0.2023 + 0.1994 + 0.2010) / 3)
    assert found[:, 0, 0, 0].tolist() == pytest.approx([0.5 + far, 0.5 - far], abs=1e-6)
    assert found[:, 0, 0, 1].tolist() == [0.5, 0.5]
    colours = bim(lambda x: x.mean(dim=(2, 3)) * 2, torch.full((1, 3, 2, 2), 0.5), torch.tensor([0]))
    assert (colours - 0.5).abs().amax(dim=(0, 2, 3)).tolist() == pytest.approx(
        [0.001 + 5 * 0.001 / deviation for deviation in (0.2023, 0.1994, 0.2010)], abs=1e-6
    )


class NeverWrong(nn.Module):
    """Ten classes, of which only the second comes near the first: its logit is -(1 + (x + 1)^2) for a pixel x."""

    def forward(self, x):
        pixel = x.flatten(1)[:, :1]
        return torch.cat([0 * pixel, -(1 + (pixel + 1) ** 2), (0 * pixel - 50).expand(-1, 8)], dim=1)


def test_deepfool_of_the_script_keeps_the_last_iterate_where_nothing_changes_the_label():
    def newton(pixel):
        for _ in range(5):
            gap, slope = -(1 + (pixel + 1) ** 2), -2 * (pixel + 1)
            pixel += abs(gap) / slope**2 * slope
        return pixel

    x = torch.tensor([0.9, 0.2]).view(2, 1, 1, 1)
    found = script.deepfool_script(NeverWrong(), x, torch.tensor([0, 0])).flatten()
    assert found.tolist() == pytest.approx([min(1.0, max(0.0, newton(value))) for value in (0.9, 0.2)], abs=1e-4)
    assert not torch.equal(found, x.flatten()), "the attack `deepfool` gives such images back as they were"
    wrong = script.deepfool_script(NeverWrong(), x, torch.tensor([1, 1])).flatten()
    assert not torch.equal(wrong, x.flatten()), "images that are wrong already take a step too"


def test_deepfool_of_the_script_is_its_loop_over_single_images():
    """As the script has it: class gradients of the mean over ten copies, so a tenth each, and steps of a tenth."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 10)).double()
    x, y = torch.rand(24, 3, 2, 2, dtype=torch.float64), torch.arange(24) % 10
    y[::2] = model(x[::2]).argmax(dim=1)

    def single(image, label):
        point = image.clone()
        for _ in range(5):
            copies = point.repeat(10, 1, 1, 1).requires_grad_(True)
            logits = model(copies)
            (gradients,) = torch.autograd.grad(logits.diagonal().mean(), copies)
            ways = gradients - gradients[label]
            gaps = (logits[0] - logits[0, label]).detach()
            ratios = [math.inf if k == label else float(gaps[k].abs() / ways[k].norm()) for k in range(10)]
            k = ratios.index(min(ratios))
            point = point + ratios[k] / ways[k].norm() * 0.1 * ways[k]
            if model(point[None]).argmax() != label:
                break
        return point.clamp(0, 1)

    expected = torch.stack([single(image, label) for image, label in zip(x, y.tolist(), strict=True)])
    assert (expected != x).flatten(1).any(dim=1).all()
    assert torch.allclose(script.deepfool_script(model, x, y), expected, atol=1e-9)


def test_sets_of_the_script_are_stored_like_the_others_and_ask_for_no_attack(tmp_path):
    ctx = CountedAttacks(toys.toy_part(n=40), tmp_path)
    model = toys.tiny_net()
    start, deepfool = sets.collect(model, ctx, ["deepfool_script"], "lossless").arrays
    assert not ctx.crafted
    x, y = ctx.train.batch(slice(None), CPU)
    assert np.array_equal(deepfool, (script.deepfool_script(model, x, y) * 255).round().numpy().astype(np.uint8))
    assert not np.array_equal(start, deepfool)
    assert {path.name.partition("-")[0] for path in (tmp_path / "simple_structure").glob("*.npy")} == {
        "deepfool_script",
    }  # fmt: skip


# --- stored images ---------------------------------------------------------------------------------------------------


def through_pil(image: np.ndarray) -> np.ndarray:
    """One (c, h, w) image saved as JPEG with PIL's own defaults and read back."""
    file = io.BytesIO()
    shown = image[0] if len(image) == 1 else np.moveaxis(image, 0, 2)
    Image.fromarray(shown.copy(), "L" if len(image) == 1 else "RGB").save(file, format="JPEG")
    decoded = np.array(Image.open(io.BytesIO(file.getvalue())))
    return decoded[None] if len(image) == 1 else np.moveaxis(decoded, 2, 0)


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_one_pass_for_clean_images_and_two_for_attacked_ones(channels):
    ctx = CountedAttacks(part(10, channels=channels), changes=0.0)
    images = sets.collect(toys.tiny_net(), ctx, ["fgsm_ss"], "jpeg75")
    for original, once, twice in zip(ctx.train.split.pixels, *images.arrays, strict=True):
        assert np.array_equal(once, through_pil(original))
        assert np.array_equal(twice, through_pil(through_pil(original)))
    assert not np.array_equal(*images.arrays)


def test_published_images_are_cut_to_the_level_below_and_lossless_ones_rounded():
    x = torch.tensor([10.0, 10.4, 10.6, 254.9]).view(1, 1, 2, 2).expand(1, 1, 2, 2) / 255
    assert eight_bit.stored(x, "lossless").flatten().tolist() == [10, 10, 11, 255]
    flat = torch.full((1, 1, 8, 8), 10.6 / 255)
    assert set(eight_bit.stored(flat, "lossless").flatten()) == {11}
    assert set(eight_bit.stored(flat, "jpeg75").flatten()) == {10}  # a constant image passes JPEG unchanged
    with pytest.raises(UsageError, match="not 2 channels"):
        eight_bit.jpeg(np.zeros((1, 2, 8, 8), np.uint8))


def test_lossless_images_have_one_history_whatever_the_levels_of_the_data():
    ctx = CountedAttacks(part(20, levels=16), changes=0.0)
    start, attacked = sets.collect(toys.tiny_net(), ctx, ["bim_ss"], "lossless").arrays
    assert np.array_equal(start, attacked), "an attack that changes nothing must not be told from clean"
    assert np.array_equal(start, np.round(ctx.train.split.pixels.astype(float) * 255 / 16).astype(np.uint8))


def test_a_set_is_the_attack_on_the_clean_network():
    """FGSM of the paper by autograd: 0.005 over the mean deviation of CIFAR's channels, zero counting as positive."""
    model = toys.tiny_net()
    ctx = CountedAttacks(toys.toy_part(n=80))
    ctx.attack = installed().attack
    _, found = sets.collect(model, ctx, ["fgsm_ss"], "lossless").arrays
    x, y = ctx.train.batch(slice(None), CPU)
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
    size = 0.005 / ((0.2023 + 0.1994 + 0.2010) / 3)
    expected = (x.detach() + torch.where(gradient >= 0, size, -size)).clamp(0, 1) * 255
    assert np.abs(found.astype(float) - expected.numpy()).max() <= 0.5 + 1e-3


def test_pick_gives_each_example_its_own_image_of_its_kind():
    arrays = [np.full((5, 1, 1, 1), 50 * kind, np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None, None]
              for kind in range(3)]  # fmt: skip
    found = sets.StoredImages(arrays).pick(np.array([4, 0, 2, 4]), torch.tensor([2, 0, 1, 0]), CPU)
    assert (found.flatten() * 255).round().int().tolist() == [104, 0, 52, 4]


# --- the store -------------------------------------------------------------------------------------------------------


def test_killed_crafting_goes_on_after_the_last_block_with_equal_bytes(tmp_path):
    n = 2 * BLOCK + 30
    names = ["gaussian", "deepfool"]
    whole = CountedAttacks(part(n), tmp_path / "whole")
    expected = sets.collect(toys.tiny_net(), whole, names, "lossless").arrays
    assert whole.crafted == [*range(n), *range(n)]
    killed = CountedAttacks(part(n), tmp_path / "killed")
    killed.killed_after = n + BLOCK  # the first set and one block of the second
    with pytest.raises(KeyboardInterrupt):
        sets.collect(toys.tiny_net(), killed, names, "lossless")
    resumed = CountedAttacks(part(n), tmp_path / "killed")
    found = sets.collect(toys.tiny_net(), resumed, names, "lossless").arrays
    assert resumed.crafted == list(range(BLOCK, n)), "what was crafted before is not crafted again"
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    files = [sorted(folder.rglob("*.npy")) for folder in (tmp_path / "whole", tmp_path / "killed")]
    assert len(files[0]) == 2, "blocks are gone once a set is whole"
    assert [file.name for file in files[0]] == [file.name for file in files[1]]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    again = CountedAttacks(part(n), tmp_path / "killed")
    sets.collect(toys.tiny_net(), again, names, "lossless")
    assert again.crafted == []
    assert again.notes == []


def test_size_is_told_before_anything_is_crafted(tmp_path):
    ctx = CountedAttacks(part(100), tmp_path)
    ctx.killed_after = 0
    with pytest.raises(KeyboardInterrupt):
        sets.collect(toys.tiny_net(), ctx, sets.chosen("all"), "lossless")
    (note,) = ctx.notes
    assert "6 sets of 100 images" in note
    assert "0.0 MB" in note  # 6 x 100 x 64 bytes
    assert str(tmp_path) in note


def test_what_a_set_depends_on_is_in_its_key(tmp_path):
    def crafted(network, **changes):
        ctx = CountedAttacks(changes.pop("train", part(20)), tmp_path)
        storage = changes.pop("storage", "lossless")
        for name, value in changes.items():
            setattr(ctx, name, value)
        sets.collect(network, ctx, ["gaussian"], storage)
        return len(ctx.crafted)

    assert crafted(toys.tiny_net()) == 20
    assert crafted(toys.tiny_net()) == 0
    assert crafted(toys.tiny_net(seed=1)) == 20, "another clean network"
    assert crafted(toys.tiny_net(), train=part(20, levels=16)) == 20, "other data"
    assert crafted(toys.tiny_net(), seed=1) == 20, "another seed"
    assert crafted(toys.tiny_net(), storage="jpeg75") == 20, "another storage"
    entries = dict(installed().attack(sets.ATTACKS["gaussian"]).identity)
    assert entries.keys() == {"attack", "origin", "revision", "threat", "params", "seed"}
    assert crafted(toys.tiny_net(), identity=entries) == 0
    for entry in entries:
        assert crafted(toys.tiny_net(), identity={entry: "another"}) == 20, f"another {entry} of the attack"
    assert crafted(toys.tiny_net(), identity={"revision": entries["revision"] + 1}) == 20, "a revised attack"


def test_damaged_files_are_named_and_unfinished_ones_ignored(tmp_path):
    store, identity = Store(tmp_path), {"of": "this"}
    (tmp_path / "left.tmp").write_bytes(b"half of something")
    made = store.obtain("some", identity, (3, 2), lambda span: np.full((span.stop - span.start, 2), 7, np.uint8))
    assert made.tolist() == [[7, 7]] * 3
    (file,) = tmp_path.glob("*.npy")
    del made
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="is damaged"):
        store.obtain("some", identity, (3, 2), None)
    np.save(file, np.zeros((3, 2), np.float32))
    with pytest.raises(DataError, match="holds float32"):
        store.obtain("some", identity, (3, 2), None)


def test_attack_that_does_not_apply_is_named_with_a_way_out(tmp_path):
    ctx = CountedAttacks(part(20), tmp_path)

    def refuse(*_, **__):
        raise NotApplicable("the training images are all of one class")

    ctx.attack = lambda name: PlannedAttack(refuse)
    with pytest.raises(NotApplicable, match=r"nst_ss cannot be crafted here: .* one class; leave it out: sets=gauss"):
        sets.collect(toys.tiny_net(), ctx, ["nst_ss"], "lossless")


# --- the detector ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("input", "layers", "printed"),
    [("full", 2, 2.59), ("full", 4, 4.17), ("full", 8, 7.33), ("low", 2, 0.50), ("low", 4, 0.90), ("low", 8, 1.69)],
)
def test_detector_of_resnet34_is_as_large_as_the_published_one(input, layers, printed):
    network = resnet34((3, 32, 32), 10)
    model = extend(network, shape=(3, 32, 32), classes=10, **{**PARAMS, "input": input, "layers": layers})
    d, tokens = (256, 512) if input == "full" else (128, 256)
    layer = 3 * d * d + 3 * d + d * d + d + 8 * d * d + 5 * d + 4 * d  # attention, MLP x4, two norms
    maps = 64 * 128 * 9 + 128
    if input == "full":
        maps += 128 * 128 + 128 + 4 * (256 * 128 + 512 * 256 + 256 * 128) + 128 + 256 + 128
    expected = maps + d + (tokens + 1) * d + layers * layer + 2 * d + 2 * d + 2
    assert parameter_count(model.detector) == expected
    assert round(expected / 1e6, 2) == printed
    with torch.no_grad():
        feature, verdict = model.eval().detector(model.clean.stages(torch.rand(2, 3, 32, 32)))
    assert feature.shape == (2, d)
    assert verdict.shape == (2, 2)


@pytest.mark.parametrize(("dimension", "heads", "layers"), [(16, 4, 2), (10, 2, 1), (25, 1, 3)])
def test_encoder_is_that_of_torch(dimension, heads, layers):
    """In eval mode, with the same weights in torch's own layers."""
    torch.manual_seed(2)
    ours = Encoder(dimension, layers).double().eval()
    theirs = [
        nn.TransformerEncoderLayer(
            dimension, heads, 4 * dimension, 0.1, "gelu", batch_first=True, norm_first=True, dtype=torch.float64
        ).eval()
        for _ in range(layers)
    ]
    for own, other in zip(ours.layers, theirs, strict=True):
        own.norm1.weight.data += 0.1 * torch.randn(dimension)
        other.load_state_dict(
            {
                "self_attn.in_proj_weight": torch.cat([own.query.weight, own.key_value.weight]),
                "self_attn.in_proj_bias": torch.cat([own.query.bias, own.key_value.bias]),
                "self_attn.out_proj.weight": own.out.weight,
                "self_attn.out_proj.bias": own.out.bias,
                **{f"linear1.{name}": value for name, value in own.mlp[0].state_dict().items()},
                **{f"linear2.{name}": value for name, value in own.mlp[3].state_dict().items()},
                **{f"norm1.{name}": value for name, value in own.norm1.state_dict().items()},
                **{f"norm2.{name}": value for name, value in own.norm2.state_dict().items()},
            }
        )
        assert own.heads == other.self_attn.num_heads == heads
    tokens = torch.randn(3, 7, dimension, dtype=torch.float64)
    expected = tokens
    for other in theirs:
        expected = other(expected)
    torch.testing.assert_close(ours(tokens), ours.norm(expected)[:, 0], rtol=1e-9, atol=1e-9)


def test_encoder_drops_where_torch_does():
    """Many passes with dropout: the first token's mean and deviation agree with torch's, place by place."""
    torch.manual_seed(4)
    ours, theirs = Encoder(8, 1), nn.TransformerEncoderLayer(8, 4, 32, 0.1, "gelu", batch_first=True, norm_first=True)
    (own,) = ours.layers
    ours.norm = nn.Identity()
    for mine, other in (
        (own.norm1, theirs.norm1), (own.norm2, theirs.norm2), (own.out, theirs.self_attn.out_proj),
        (own.mlp[0], theirs.linear1), (own.mlp[3], theirs.linear2),
    ):  # fmt: skip
        other.load_state_dict(mine.state_dict())
    theirs.self_attn.in_proj_weight.data = torch.cat([own.query.weight, own.key_value.weight]).data.clone()
    theirs.self_attn.in_proj_bias.data = torch.cat([own.query.bias, own.key_value.bias]).data.clone()
    tokens = torch.randn(1, 5, 8).expand(8_000, -1, -1)
    with torch.no_grad():
        found, expected = ours(tokens), theirs(tokens)[:, 0]
    spread = expected.std(dim=0)
    assert ((found.mean(dim=0) - expected.mean(dim=0)).abs() / spread < 5 * (2 / 8_000) ** 0.5).all()
    assert ((found.std(dim=0) / spread - 1).abs() < 0.05).all()


@pytest.mark.parametrize("input", ["full", "low"])
@pytest.mark.parametrize(
    ("network", "shape", "full", "low"),
    [
        (lambda: toys.tiny_net(), toys.SHAPE, (16, 16), (16, 16)),
        (lambda: digits_net((1, 8, 8), 10, width=16), (1, 8, 8), (96, 16), (16, 32)),
        (lambda: lenet5((1, 28, 28), 10), (1, 28, 28), (32, 25), (49, 12)),
    ],
    ids=["tiny_net", "digits_net", "lenet5"],
)
def test_detector_sizes_itself_by_the_stages_of_any_network(network, shape, full, low, input):
    model = extend(network(), shape=shape, classes=10, **{**PARAMS, "input": input}).eval()
    tokens, dimension = full if input == "full" else low
    assert model.detector.positions.shape == (1, tokens + 1, dimension)
    x = torch.rand(3, *shape)
    feature, verdict = model.detector(model.clean.stages(x))
    assert feature.shape == (3, dimension)
    assert verdict.shape == (3, 2)
    alone = model.detector(model.clean.stages(x[1:2]))[1]
    torch.testing.assert_close(verdict[1:2], alone, rtol=1e-4, atol=1e-5)


def test_network_without_stages_is_refused():
    with pytest.raises(UsageError, match="choose another --arch"):
        extend(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), shape=toys.SHAPE, classes=4, **PARAMS)


# --- what is measured of it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [4, 1000])
def test_auroc_and_tpr_are_those_of_scikit_learn(levels):
    """With few levels most pairs are ties."""
    stream = torch.Generator().manual_seed(levels)
    negatives = torch.randint(0, levels, (137,), generator=stream).float()
    positives = torch.randint(levels // 4, levels + levels // 4, (61,), generator=stream).float()
    labels, scores = [0] * 137 + [1] * 61, torch.cat([negatives, positives]).numpy()
    assert metrics.auroc(negatives, positives) == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert metrics.true_positives(negatives, positives) == pytest.approx(tpr[fpr <= 0.05].max())


def test_auroc_and_tpr_by_hand():
    negatives, positives = torch.tensor([1.0, 2.0, 2.0, 3.0]), torch.tensor([2.0, 4.0])
    assert metrics.auroc(negatives, positives) == (1 + 0.5 + 0.5 + 0 + 4) / 8
    assert metrics.true_positives(negatives, positives) == 0.5  # none of four may be a false alarm
    twenty = torch.arange(20.0)
    assert metrics.true_positives(twenty, torch.tensor([18.0, 18.5, 19.0, 17.0])) == 0.5  # above 18: one false alarm


def published(labels: list[int], ratio: float, n_sets: int) -> list[int]:
    """The validation of section 9 in a loop: sorted by class, first clean, then the sets one after the other."""
    order = sorted(range(len(labels)), key=lambda i: (labels[i], i))
    clean_count = int((1 - ratio) * len(labels))
    rest, kinds = order[clean_count:], [0] * len(labels)
    for place, i in enumerate(rest):
        kinds[i] = 1 + int(place / len(rest) * n_sets)
    return kinds


@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_mixture_of_the_paper_is_told_by_class_and_ours_is_not(ratio):
    y = torch.randint(0, 10, (600,), generator=torch.Generator().manual_seed(2))
    kinds = mixtures.by_class(y, ratio, 6)
    assert kinds.tolist() == published(y.tolist(), ratio, 6)
    assert torch.bincount(kinds)[1:].tolist() == [int(600 * ratio) // 6] * 6
    ours = mixtures.uniform(y, ratio, 6)
    for label in range(10):
        attacked = (ours[y == label] > 0).double().mean()
        assert float(attacked) == pytest.approx(ratio, abs=0.5 / int((y == label).sum()) + 1e-9)
    counts = torch.bincount(ours, minlength=7)[1:]
    assert int(counts.max() - counts.min()) <= 10  # one for each class at most
    assert mixtures.told_by_class(y, ours) == pytest.approx(max(ratio, 1 - ratio), abs=0.01)


def test_class_alone_answers_the_published_mixture():
    y = torch.arange(10).repeat_interleave(50)[torch.randperm(500, generator=torch.Generator().manual_seed(0))]
    kinds = mixtures.by_class(y, 0.5, 6)
    assert set(y[kinds == 0].tolist()) == {0, 1, 2, 3, 4}
    assert all(len(y[kinds == kind].unique()) <= 2 for kind in range(1, 7)), "each set hits one class or two"
    assert mixtures.told_by_class(y, kinds) == 1.0
    assert mixtures.told_by_class(y, mixtures.uniform(y, 0.5, 6)) == 0.5


class Right(nn.Module):
    """In place of P: shows itself the image, and answers class 2."""

    def stages(self, x):
        return x

    def forward(self, x):
        return torch.eye(4)[torch.full((len(x),), 2)]


class Looks(nn.Module):
    """In place of a structure: the detector scores the mean of an image, on the scale of 255 and above 100."""

    def __init__(self) -> None:
        super().__init__()
        self.clean = Right()

    def detector(self, x):
        score = x.mean(dim=(1, 2, 3)) * 255 - 100
        return None, torch.stack([torch.zeros_like(score), score], dim=1)


def analysed(monkeypatch, pixels, changes, storage="lossless", sets="gaussian+fgsm_ss", **given):
    monkeypatch.setattr(eight_bit, "jpeg", lambda found: found + 1)
    attacked = {}

    def attack(name):
        def craft(model, x, y, examples):
            attacked[plain] = model
            return x + changes[plain] / 255

        plain = name.partition("[")[0]
        return craft

    test = LoadedPart(Split(pixels=pixels, labels=np.arange(len(pixels)) % 4), "")
    ctx = SimpleNamespace(
        network=Looks(), model=lambda x: F.one_hot((x[:, 0, 0, 0] * 255).round().long() % 4, 4).float(),
        defense_params={**PARAMS, "sets": sets, "storage": storage}, test=test,
        examples=np.arange(len(pixels)), device=CPU,
        images=lambda: test.batch(np.arange(len(pixels)), CPU),
        attack=attack,
    )  # fmt: skip
    found = analyse(ctx, **{"mixture": "both", "white_box": "pgd-40", **given})
    on_p = {name: target is ctx.network.clean for name, target in attacked.items()}
    assert on_p == {name: name != "pgd-40" for name in changes}
    assert attacked["pgd-40"] is ctx.model
    return found


def test_analysis_by_hand(monkeypatch):
    pixels = np.tile((90 + np.arange(20, dtype=np.uint8))[:, None, None, None], (1, 1, 8, 8))  # 90 ... 109
    found = analysed(monkeypatch, pixels, {"gaussian": 20, "fgsm_ss": 0, "pgd-40": 4})
    value = {name: quantity.value for name, quantity in found.items()}
    # Scores are -10 ... 9 for clean images: 11 of 20 count as clean; under gaussian they are 10 ... 29.
    assert value["accuracy, gaussian"] == (11 + 20) / 40
    assert value["auroc, gaussian"] == 1.0
    assert value["tpr at 5% fpr, gaussian"] == 1.0
    assert value["auroc, fgsm_ss"] == 0.5
    assert value["tpr at 5% fpr, fgsm_ss"] == 1 / 20
    assert value["coverage, clean"] == 19 / 20
    assert value["coverage, pgd-40"] == 15 / 20  # -6 ... 13, of which those above 8 are rejected
    assert value["coverage, gaussian"] == 0
    assert value["classification of accepted, gaussian"] is None
    assert found["classification of accepted, gaussian"].n == 0
    # The network answers the first pixel modulo 4, (90 + i) mod 4, and the label is i mod 4: two off, always wrong.
    assert value["classification, clean"] == value["classification of accepted, clean"] == 0
    assert value["classification of the clean network, clean"] == 5 / 20
    assert value["classification, pgd-40"] == 0  # four levels more change no answer
    assert value["base rate, mixture uniform"] == value["told by class alone, mixture uniform"] == 0.6
    assert value["told by class alone, mixture by_class"] == 1.0
    assert found["auroc, gaussian"].n == 40
    assert found["auroc, mixture uniform"].n == 20


def test_the_papers_baseline_is_measured_beside_the_classifier(monkeypatch):
    """P answers class 2 whatever it sees: right on every fourth image, in every set and mixture."""
    pixels = np.tile((90 + np.arange(20, dtype=np.uint8))[:, None, None, None], (1, 1, 8, 8))
    changes = {"gaussian": 20, "fgsm_ss": 0, "pgd-40": 4}
    found = analysed(monkeypatch, pixels, changes, mixture="both_networks", storage="jpeg75")
    of_clean = {name: q.value for name, q in found.items() if name.startswith("classification of the clean network")}
    names = ["clean", "clean, once", "gaussian", "fgsm_ss", "pgd-40", "mixture uniform", "mixture by_class"]
    assert of_clean == {f"classification of the clean network, {name}": 0.25 for name in names}
    # Each pass through the storage adds a level here: once on clean images, and the answer is (91 + i) mod 4.
    assert found["classification, clean, once"].value == 0.0
    assert found["classification, clean"].value == 1.0, "twice: (92 + i) mod 4 is the label"
    fewer = analysed(monkeypatch, pixels, changes, storage="jpeg75")
    assert fewer.keys() == found.keys() - {
        "classification of the clean network, mixture uniform", "classification of the clean network, mixture by_class",
        "classification, clean, once", "classification of the clean network, clean, once", "coverage, clean, once",
        "classification of accepted, clean, once",
    }  # fmt: skip
    assert all(fewer[name] == found[name] for name in fewer), "what was measured before is as it was"


def test_boards_of_the_paper_ask_for_quantities_that_the_analysis_has(monkeypatch):
    from harness.leaderboard import definition as definitions

    monkeypatch.setattr(sets, "SCRIPTS", {"deepfool_script": lambda model, x, y: x})
    pixels = np.tile((90 + np.arange(20, dtype=np.uint8))[:, None, None, None], (1, 1, 8, 8))
    others = dict.fromkeys(("gaussian", "fgsm_ss", "bim_ss", "cw_l2_adam100", "nst_ss", "pgd-40"), 0)
    given = {"mixture": "both_networks", "storage": "jpeg75", "sets": "published"}
    found = analysed(monkeypatch, pixels, others, **given)
    for table in ("detector", "main", "per-attack"):
        board = definitions.read(ROOT / f"leaderboards/simple-structure-{table}")
        asked = {board.column(row, column).quantity for row in board.rows for column in board.columns}
        assert asked <= found.keys()


def test_analysis_tells_which_accepted_images_are_right(monkeypatch):
    pixels = np.tile((90 + np.arange(20, dtype=np.uint8))[:, None, None, None], (1, 1, 8, 8))
    found = analysed(monkeypatch, pixels, {"gaussian": 2, "fgsm_ss": 0, "pgd-40": 4})
    assert found["classification, gaussian"].value == 1.0  # two levels more, and the answer is i mod 4
    assert found["classification of accepted, gaussian"].n == 17  # up to 108
    assert found["classification of accepted, gaussian"].value == 1.0


def test_compression_tells_attacks_in_the_published_mixture_only(monkeypatch):
    """An attack that changes nothing, on equal images: only one JPEG pass more can tell it."""
    pixels = np.full((40, 1, 8, 8), 99, np.uint8)
    nothing = {"gaussian": 0, "fgsm_ss": 0, "pgd-40": 0}
    found = analysed(monkeypatch, pixels, nothing, storage="jpeg75")
    assert found["auroc, gaussian"].value == found["auroc, mixture uniform"].value == 0.5
    assert found["auroc, mixture by_class"].value == 1.0
    assert "auroc, mixture by_class" not in analysed(monkeypatch, pixels, nothing, mixture="uniform")


def test_it_is_an_analysis_of_simple_structure_alone():
    (analysis,) = harness_analyses()
    assert analysis.only_of == ("simple_structure",)


# --- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        {"storage": "jpeg75", "input": "low", "ratio_range": "0.2:0.8", "sets": "published"},
        {"match": "features", "sets": "fgsm_ss+nst_ss", "layers": 4},
    ],
    ids=["published storage", "ablation"],
)
def test_variants_hold_every_contract(given):
    results = check_defense(replace(DEFENSE, params={**PARAMS, **given}))
    assert [f"{result.name}: {result.detail}" for result in results if result.state == "failed"] == []
