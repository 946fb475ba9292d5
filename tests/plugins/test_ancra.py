"""harness_ancra against section 12 of the method sheet, written out image by image on networks of a few channels."""

import copy
import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.api import Architecture, Defense, InnerAttack, UsageError
from harness.conformance import toys
from harness.networks import Classifier, parameter_count, stage_outputs
from harness.ops import ascend, cross_entropy, project_linf
from harness.registry import discovery
from harness.registry.names import default_value
from harness.training.loop import learning_rate
from harness_ancra import harness_defenses, recipes, stand_ins
from harness_ancra.contrast import contrast, negatives
from harness_ancra.layout import find_layout
from harness_ancra.reverse_attention import ReverseAttention, labelled, predicted
from harness_ancra.step import examples
from harness_vision.networks.preactivation import PreActResNet, PreActResNet18
from harness_vision.networks.resnet import ResNet
from harness_vision.networks.small import DigitsNet
from support.training import toy_recipe, training_context

(ANCRA,) = harness_defenses()
REGISTRY = discovery.discover()
N, K = 6, 3
LABELS = torch.tensor([0, 1, 2, 0, 1, 1])
SHAPE = (1, 16, 16)


def residual() -> ResNet:
    return ResNet(SHAPE, K, blocks=(1, 3), widths=(4, 6))


def preactivated() -> PreActResNet:
    """Means over the whole map, as in a wide ResNet."""
    return PreActResNet(SHAPE, K, stem=3, widths=(4, 6), blocks=3)


class Squares(PreActResNet):
    """The head of PreActResNet18 behind small stages: a map of 8x8, of which it sees 2x2 means."""

    pool = PreActResNet18.pool

    def pooled(self, channels, shape):
        return 4 * channels


def squares() -> Squares:
    return Squares(SHAPE, K, stem=3, widths=(4, 6), blocks=2)


def digits() -> DigitsNet:
    return DigitsNet(SHAPE, K, 3)


class Flat(Classifier):
    """The map of the last stage, flattened: the head has weights of its own for each of 5x7 positions."""

    stage_names = ("layer1", "layer2")

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(1, 3, 3, stride=(3, 2)), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4 * 5 * 7, K)

    def features(self, x):
        return self.layer2(self.layer1(x)).flatten(1)


def made(build) -> tuple[ReverseAttention, Classifier]:
    """A network with reverse attention, and the plain network with the same weights; both in train mode.

    Batch norms have lived a little, and the head predicts several classes.
    """
    with torch.random.fork_rng():
        torch.manual_seed(6)
        plain = build()
        for module in plain.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 1.5)
        with torch.no_grad():
            plain.head.weight.mul_(4)
    extended = ANCRA.extend(copy.deepcopy(plain), shape=SHAPE, classes=K, **defaults()).eval()
    with torch.no_grad():
        extended.head.bias -= extended.answers(batch_of_squares()[0])[1][0].mean(dim=0)
        plain.head.bias.copy_(extended.head.bias)
    return extended.train(), plain.train()


def defaults() -> dict[str, object]:
    return {key: default_value(value) for key, value in ANCRA.params.items()}


def batch_of_squares(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as different as a few bright and dark squares make them."""
    squares = torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(seed)).round()
    return F.interpolate(squares, size=SHAPE[1:]) * torch.linspace(0.3, 1, N).view(N, 1, 1, 1), LABELS


# --- reverse attention, image by image -------------------------------------------------------------------------------


def by_hand(plain: Classifier, x: torch.Tensor, y: torch.Tensor | None) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Section 12 for the networks above: final logits and auxiliary ones. Without y, the mask is the prediction's."""
    weight, bias = plain.head.weight, plain.head.bias
    before, blocks, norm, side = {
        ResNet: lambda: ((plain.stem, plain.layer1, plain.layer2[0]), plain.layer2[1:], None, None),
        PreActResNet: lambda: ((plain.stem, plain.layer1, plain.layer2[0]), plain.layer2[1:], plain.bn, None),
        Squares: lambda: ((plain.stem, plain.layer1), plain.layer2, plain.bn, 4),
        DigitsNet: lambda: ((plain.layer1, plain.layer2), [plain.layer3], None, None),
        Flat: lambda: ((plain.layer1,), [plain.layer2], None, 1),
    }[type(plain)]()
    for module in before:
        x = module(x)
    auxiliary = []

    def read(z: torch.Tensor) -> torch.Tensor:
        """W avgpool(Z) + b."""
        size = side or z.shape[2]
        rows = [z[:, :, i : i + size] for i in range(0, z.shape[2], size)]
        means = [row[..., j : j + size].mean(dim=(2, 3)) for row in rows for j in range(0, z.shape[3], size)]
        return torch.einsum("kcs,ncs->nk", weight.view(K, z.shape[1], -1), torch.stack(means, dim=2)) + bias

    for block in blocks:
        x = block(x)
        if norm is not None:
            x = norm(x).clamp_min(0)
        auxiliary.append(read(x))
        chosen = auxiliary[-1].argmax(dim=1) if y is None else y
        size = side or x.shape[2]
        square = torch.ones(size, x.shape[3] if side is None else size)
        each = [
            z * torch.kron(weight[j].view(x.shape[1], x.shape[2] // size, -1), square)
            for z, j in zip(x, chosen.tolist(), strict=True)
        ]
        x = torch.stack(each)
    return read(x), auxiliary


NETWORKS = [residual, preactivated, squares, digits, Flat]
BLOCKS = {residual: 2, preactivated: 2, squares: 2, digits: 1, Flat: 1}


@pytest.mark.parametrize("build", NETWORKS)
@pytest.mark.parametrize("training", [True, False])
def test_reverse_attention_is_that_of_the_method_sheet(build, training):
    extended, plain = made(build)
    x, y = batch_of_squares()
    extended.train(training), plain.train(training)
    expected, expected_blocks = by_hand(plain, x, y if training else None)
    found, blocks = extended.answers(x, labelled(y) if training else None)
    assert len(blocks) == len(expected_blocks) == BLOCKS[build]
    assert training or len(set(blocks[0].argmax(dim=1).tolist())) > 1
    for ours, theirs in zip((found, *blocks), (expected, *expected_blocks), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-4)
    if not training:
        assert torch.equal(extended(x), found)
    probe = torch.randn(N, K, generator=torch.Generator().manual_seed(0))
    sum((logits * probe).sum() for logits in (found, *blocks)).backward()
    sum((logits * probe).sum() for logits in (expected, *expected_blocks)).backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in extended.named_parameters():
        wanted = theirs[original(name)].grad
        assert torch.allclose(parameter.grad, wanted, atol=1e-4, rtol=1e-3), name
    if training:  # and every batch norm has seen the same maps, the last one those of every block
        statistics = dict(plain.named_buffers())
        for name, buffer in extended.named_buffers():
            assert torch.allclose(buffer, statistics[original(name)], atol=1e-6), name


def original(name: str) -> str:
    """The name of a tensor in the network before it was extended."""
    return f"bn.{name[5:]}" if name.startswith("norm.") else name.removeprefix("network.")


@pytest.mark.parametrize("build", NETWORKS)
def test_the_true_class_and_the_prediction_give_other_masks(build):
    extended, _ = made(build)
    x, y = batch_of_squares()
    answers = [extended.eval().answers(x, choose)[0] for choose in (predicted, labelled(y))]
    predictions = extended.answers(x)[1][-1].argmax(dim=1)
    if len(extended.blocks) == 1:
        changed = (answers[0] - answers[1]).abs().amax(dim=1) > 1e-4
        assert torch.equal(changed, predictions != y)
    assert not torch.allclose(*answers)


def test_the_weights_in_the_mask_take_gradient():
    """That of the final logits with the mask cut off is another one."""
    extended, _ = made(digits)
    x, y = batch_of_squares()
    extended.eval().answers(x, labelled(y))[0].square().sum().backward()
    found = extended.head.weight.grad.clone()
    with torch.no_grad():
        z = extended.network.layer3(extended.network.layer2(extended.network.layer1(x)))
    for detached in (False, True):
        weight = extended.head.weight.detach().clone().requires_grad_(True)
        mask = weight[y].detach() if detached else weight[y]
        logits = (z.mean(dim=(2, 3)) * mask) @ weight.T + extended.head.bias.detach()
        (wanted,) = torch.autograd.grad(logits.square().sum(), weight)
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-5) == (not detached)


def test_flattened_features_are_weighted_position_by_position():
    """The toy network of the contracts: 8 channels at 4x4 positions, with no average between map and head."""
    model = ANCRA.extend(toys.tiny_net(), shape=toys.SHAPE, classes=4, **defaults()).eval()
    x, y = toys.images()
    with torch.no_grad():
        z = model.network.layer2(model.network.layer1(x))
        weight = model.head.weight.view(4, 8, 4, 4)
        found, (auxiliary,) = model.answers(x, labelled(y))
        assert torch.allclose(auxiliary, torch.einsum("kchw,nchw->nk", weight, z) + model.head.bias, atol=1e-5)
        expected = torch.einsum("kchw,nchw,nchw->nk", weight, weight[y], z) + model.head.bias
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("build", NETWORKS)
def test_what_is_saved_is_every_tensor_of_the_network_once(build):
    extended, plain = made(build)
    ours, theirs = extended.state_dict(), plain.state_dict()
    assert sorted(original(name) for name in ours) == sorted(theirs)
    assert len({tensor.data_ptr() for tensor in ours.values()}) == len(theirs)
    assert all(torch.equal(tensor, theirs[original(name)]) for name, tensor in ours.items())
    assert parameter_count(extended) == parameter_count(plain)
    twin = copy.deepcopy(extended).eval()
    x, _ = batch_of_squares()
    before = twin(x)
    nn.init.zeros_(twin.head.weight)
    assert not torch.equal(twin(x), before)  # a copy reads its own head
    assert torch.equal(copy.deepcopy(extended).eval()(x), before)


@pytest.mark.parametrize("build", NETWORKS)
def test_it_is_a_classifier_that_attacks_on_features_can_ask(build):
    extended, plain = made(build)
    x, _ = batch_of_squares()
    extended.eval(), plain.eval()
    assert torch.equal(extended.head(extended.features(x)), extended(x))
    with stage_outputs(extended) as found:
        extended(x)
    assert list(found) == [f"network.{name}" for name in plain.stage_names]
    assert not any(module._forward_hooks for module in extended.modules())


@pytest.mark.parametrize(
    ("arch", "shape", "blocks", "kernel", "norm"),
    [
        ("digits_net", (1, 8, 8), ("layer3",), (2, 2), ""),
        ("resnet18", (3, 32, 32), ("layer4.0", "layer4.1"), (4, 4), ""),
        ("resnet20", (3, 32, 32), ("layer3.1", "layer3.2"), (8, 8), ""),
        ("vgg16", (3, 32, 32), ("layer5",), (1, 1), ""),
        ("preact_resnet18", (3, 64, 64), ("layer4.0", "layer4.1"), (4, 4), "bn"),
        pytest.param("wrn34_10", (3, 32, 32), ("layer3.3", "layer3.4"), (8, 8), "bn", marks=pytest.mark.slow),
    ],
)
def test_where_it_goes_in_the_networks_of_the_papers(arch, shape, blocks, kernel, norm):
    found = find_layout(network(arch, shape), shape)
    assert (found.blocks, found.kernel, found.norm) == (blocks, kernel, norm)


@pytest.mark.parametrize("arch", ["lenet5", "small_cnn", "madry_mnist"])
def test_a_head_behind_hidden_layers_is_refused(arch):
    with pytest.raises(UsageError, match="does not see averages over the map of layer2; choose another --arch"):
        find_layout(network(arch, (1, 28, 28)), (1, 28, 28))


def test_maxima_and_foreign_networks_are_refused():
    with pytest.raises(UsageError, match="head of ResNet9 does not see averages over the map of layer3"):
        find_layout(network("resnet9", (3, 32, 32)), (3, 32, 32))
    with pytest.raises(UsageError, match="which Sequential is not"):
        find_layout(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), toys.SHAPE)


def test_looking_changes_nothing_of_a_network():
    plain = made(preactivated)[1]
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    state = torch.random.get_rng_state()
    find_layout(plain, SHAPE)
    assert plain.training
    assert all(parameter.requires_grad for parameter in plain.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(module._forward_hooks for module in plain.modules())


def network(arch: str, shape: tuple[int, int, int]) -> nn.Module:
    spec = REGISTRY.get(Architecture, arch).spec
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return spec.build(shape, 10, **{key: default_value(value) for key, value in spec.params.items()})


# --- negative contrast -----------------------------------------------------------------------------------------------

HALF, QUARTER = math.log(0.5), math.log(0.25)
ANCHORS = torch.tensor([[HALF, QUARTER, QUARTER], [QUARTER, HALF, QUARTER], [0.0, 0.0, 9.0], [HALF, QUARTER, QUARTER]])
NEGATIVES = torch.tensor(
    [
        [math.log(0.64), math.log(0.2), math.log(0.16)],
        [HALF, QUARTER, QUARTER],
        [0.0, 0.0, 9.0],
        [math.log(0.4), math.log(0.35), QUARTER],
    ]
)


def test_the_contrast_of_four_pairs_by_hand():
    """sqrt(0.5 0.64), nothing where the classes differ, (1 - 2 / (e^9 + 2)), sqrt(0.5 0.4); over four."""
    sure = math.exp(9) / (math.exp(9) + 2)
    expected = (math.sqrt(0.32) + 0.0 + sure + math.sqrt(0.2)) / 4
    for alpha in (1.0, 0.5, 0.0):
        assert contrast(ANCHORS, NEGATIVES, alpha).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 0.75, 0.0])
def test_alpha_shares_the_gradient_between_negatives_and_anchors(alpha):
    anchors, negative = ANCHORS.clone().requires_grad_(True), NEGATIVES.clone().requires_grad_(True)
    of_anchors, of_negatives = torch.autograd.grad(contrast(anchors, negative, alpha), [anchors, negative])
    p, q = ANCHORS.clone().requires_grad_(True), NEGATIVES.clone().requires_grad_(True)
    likeness = [(p.softmax(1)[i, k] * q.softmax(1)[i, k]).sqrt() for i, k in ((0, 0), (2, 2), (3, 0))]
    whole = torch.autograd.grad(sum(likeness) / 4, [p, q])
    assert torch.allclose(of_anchors, (1 - alpha) * whole[0], atol=1e-7)
    assert torch.allclose(of_negatives, alpha * whole[1], atol=1e-7)
    assert of_negatives[1].abs().max() == 0
    if alpha == 1.0:
        assert of_anchors.abs().max() == 0


def test_negatives_are_of_every_other_class_equally_often():
    y = torch.tensor([0, 0, 0, 0, 1, 2, 2])
    torch.manual_seed(0)
    drawn = torch.stack([negatives(y) for _ in range(4000)])
    assert (y[drawn] != y).all()
    of_first = torch.bincount(drawn[:, 0], minlength=7) / 4000
    assert torch.allclose(of_first, torch.tensor([0, 0, 0, 0, 0.5, 0.25, 0.25]), atol=0.03)
    of_fifth = torch.bincount(drawn[:, 4], minlength=7) / 4000
    assert torch.allclose(of_fifth, torch.tensor([1 / 8, 1 / 8, 1 / 8, 1 / 8, 0, 1 / 4, 1 / 4]), atol=0.03)


def test_one_class_has_no_negatives():
    assert negatives(torch.tensor([2, 2, 2])) is None
    assert negatives(torch.tensor([1])) is None


# --- the loss, image by image ----------------------------------------------------------------------------------------


class NotedPerturbation:
    """A training context that hands out what it is asked to perturb, changed a little, and remembers the question."""

    def perturb(self, model, x, y, loss=None, **changes):
        self.asked, self.aim, self.goal, self.changes = x, y, loss, changes
        self.answer = (x + 0.3 * torch.rand(x.shape, generator=torch.Generator().manual_seed(9))).clamp(0, 1)
        return self.answer


def loss_of(model, x, y, ctx, **given) -> torch.Tensor:
    assert given.keys() <= ANCRA.params.keys()
    return ANCRA.step(model, x, y, ctx, **{**defaults(), **given})


def expected_loss(answers, y, variant="trades", beta=6.0, mart_beta=5.0, auxiliary=2.0, zeta=3.0) -> torch.Tensor:
    """Three brackets over lists of (final, *auxiliary) logits of clean, adversarial and negative images."""

    def probabilities(z):
        return torch.exp(z - torch.log(torch.exp(z).sum()))

    def bracket(term):
        each = [
            sum(term(i, *(logits[i] for logits in triple)) for i in range(N)) / N
            for triple in zip(*answers, strict=True)
        ]
        return each[0] + auxiliary * sum(each[1:]) / (len(each) - 1)

    def clean_term(i, z, adv, neg):
        return -torch.log(probabilities(z)[y[i]])

    def adversarial_term(i, z, adv, neg):
        p, q = probabilities(z), probabilities(adv)
        divergence = sum(p[k] * torch.log(p[k] / q[k]) for k in range(K))
        if variant == "trades":
            return beta * divergence
        if variant in ("pgd", "pgd_plain"):
            return -torch.log(q[y[i]])
        runner_up = max((q[k] for k in range(K) if k != y[i]), key=lambda value: value.item())
        return -torch.log(q[y[i]]) - torch.log(1.0001 - runner_up) + mart_beta * divergence * (1 - p[y[i]])

    def negative_term(i, z, adv, neg):
        p, q = probabilities(z).detach(), probabilities(neg)
        return torch.sqrt(p.max() * q.max()) if p.argmax() == q.argmax() else 0 * q.sum()

    plain = variant in ("pgd_plain", "mart_plain")
    return (0 if plain else bracket(clean_term)) + bracket(adversarial_term) + zeta * bracket(negative_term)


CASES = [
    {},
    {"beta": 1.0, "auxiliary": 0.5, "zeta": 7.0},
    {"variant": "pgd"},
    {"variant": "pgd", "auxiliary": 0.25},
    {"variant": "mart"},
    {"variant": "mart", "mart_beta": 2.0, "zeta": 0.5},
    {"variant": "pgd_plain"},
    {"variant": "mart_plain", "mart_beta": 2.0},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: ",".join(f"{k}={v}" for k, v in case.items()) or "default")
@pytest.mark.parametrize("build", [residual, squares, digits])
def test_the_loss_and_its_gradient_are_those_of_the_method_sheet(build, case):
    (extended, plain), (x, y), ctx = made(build), batch_of_squares(), NotedPerturbation()
    torch.manual_seed(5)
    found = loss_of(extended, x, y, ctx, **case)
    found.backward()
    partners = whose(ctx.asked[N:], x)
    answers = []
    for images, labels in ((x, y), (ctx.answer[:N], y), (ctx.answer[N:], y[partners])):
        final, auxiliary = by_hand(plain, images, labels)
        answers.append((final, *auxiliary))
    expected = expected_loss(answers, y, **case)
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    theirs = dict(plain.named_parameters())
    for name, parameter in extended.named_parameters():
        wanted = theirs[original(name)].grad
        assert torch.allclose(parameter.grad, wanted, atol=2e-3, rtol=2e-3), name
    # Clean, adversarial and negative images went through batch norm in this order, each once.
    statistics = dict(plain.named_buffers())
    assert all(torch.allclose(b, statistics[original(n)], atol=1e-6) for n, b in extended.named_buffers())


def whose(images: torch.Tensor, x: torch.Tensor) -> list[int]:
    """Which of the images x each image is."""
    same = (images[:, None] == x[None]).flatten(2).all(dim=2)
    assert (same.sum(dim=1) == 1).all()
    return same.float().argmax(dim=1).tolist()


def test_the_cases_of_the_loss_test_are_different_losses():
    stream = torch.Generator().manual_seed(2)
    answers = [[torch.randn(N, K, generator=stream) for _ in range(3)] for _ in range(3)]
    y = batch_of_squares()[1]
    found = [expected_loss(answers, y, **case).item() for case in CASES]
    assert min(abs(a - b) for i, a in enumerate(found) for b in found[:i]) > 1e-3
    negatives_agree = [(a.argmax(1) == n.argmax(1)).sum().item() for a, _, n in zip(*answers, strict=True)]
    assert all(0 < agree < N for agree in negatives_agree)


def test_a_batch_of_one_class_has_no_contrast():
    extended, _ = made(digits)
    x, ctx = batch_of_squares()[0], NotedPerturbation()
    y = torch.full((N,), 2)
    loss = loss_of(copy.deepcopy(extended), x, y, ctx, zeta=1000.0)
    assert torch.equal(ctx.asked, x)
    assert torch.equal(loss, loss_of(copy.deepcopy(extended), x, y, ctx, zeta=0.0))
    loss.backward()


# --- the attacks of training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("auxiliary", [2.0, 0.5])
@pytest.mark.parametrize("build", [residual, digits])
def test_images_climb_from_their_label_and_negatives_towards_their_anchors(build, auxiliary):
    (extended, plain), (x, y), ctx = made(build), batch_of_squares(), NotedPerturbation()
    torch.manual_seed(5)
    loss_of(extended, x, y, ctx, auxiliary=auxiliary)
    assert ctx.changes == {"start": "normal", "mode": "eval"}
    assert torch.equal(ctx.asked[:N], x)
    partners = whose(ctx.asked[N:], x)
    assert all(y[j] != y[i] for i, j in enumerate(partners))
    assert torch.equal(ctx.aim, torch.cat([y, y]))
    extended.eval(), plain.eval()
    plain.load_state_dict({original(name): tensor for name, tensor in extended.state_dict().items()})
    point = torch.rand(2 * N, *SHAPE, generator=torch.Generator().manual_seed(4))
    final, blocks = by_hand(plain, point, None)
    expected = []
    for i in range(2 * N):
        label = y[i % N]
        value = -F.log_softmax(final[i], 0)[label]
        value = value - auxiliary * sum(F.log_softmax(logits[i], 0)[label] for logits in blocks) / len(blocks)
        expected.append(value if i < N else -value)
    assert torch.allclose(ctx.goal(point), torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_the_inner_attack_raises_the_loss_of_images_and_lowers_that_of_negatives():
    extended, _ = made(digits)
    part = toys.toy_part(n=N)
    recipe = toy_recipe(batch=N, inner=InnerAttack(steps=5))
    ctx = training_context(recipe, step=0.03, train=part, validation=part)
    (x, y), others = batch_of_squares(), torch.tensor([1, 0, 0, 2, 3, 2])
    found = torch.cat(examples(extended, x, y, others, ctx, 2.0))
    asked, aim = torch.cat([x, x[others]]), torch.cat([y, y])
    assert (found - asked).abs().max() <= 0.1 + 1e-6
    assert not found.requires_grad
    extended.eval()

    def value(images: torch.Tensor) -> torch.Tensor:
        final, (auxiliary,) = extended.answers(images)
        return cross_entropy(final, aim) + 2 * cross_entropy(auxiliary, aim)

    gain = value(found) - value(asked)
    assert (gain[:N] > 0).all()
    assert (gain[N:] < 0).all()


def test_the_defaults_and_recipes_are_the_printed_ones():
    assert defaults() == {
        "variant": "trades", "beta": 6.0, "mart_beta": 5.0, "auxiliary": 2.0, "zeta": 3.0, "alpha": 1.0,
    }  # fmt: skip
    for dataset, arch, lr, decay, augment in (
        ("cifar10", "resnet18", 0.01, 2e-4, "crop-flip"),
        ("cifar100", "resnet18", 0.01, 2e-4, "crop-flip"),
        ("tiny-imagenet", "preact_resnet18", 0.1, 5e-4, "none"),
    ):
        (recipe,) = recipes.RECIPES[dataset]
        assert (recipe.name, recipe.arch, recipe.lr, recipe.weight_decay, recipe.augment) == (
            "ancra", arch, lr, decay, augment,
        )  # fmt: skip
        assert (recipe.epochs, recipe.batch, recipe.optimizer, recipe.momentum) == (120, 128, "sgd", 0.9)
        assert (recipe.inner.steps, recipe.inner.start, recipe.inner.mode) == (10, "normal", "eval")
        assert (recipe.inner.eps, recipe.inner.step) == (Fraction(8, 255), Fraction(7, 1000))
        # "at 75/90/100", counted from 1
        rates = [learning_rate(recipe, epoch - 1) / lr for epoch in (74, 75, 89, 90, 99, 100, 120)]
        assert rates == pytest.approx([1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


# --- what an attacker who knows it differentiates --------------------------------------------------------------------


def stand_in(name: str, network: nn.Module) -> nn.Module:
    (found,) = (stand_in for stand_in in ANCRA.stand_ins if stand_in.name == name)
    assert found.knowledge == "adaptive"
    return found.build(network, **defaults())


@pytest.mark.parametrize("build", NETWORKS)
def test_the_soft_mask_is_the_mean_of_the_masks_and_turns_hard_as_its_temperature_falls(build):
    extended, _ = made(build)
    x, _ = batch_of_squares()
    extended.eval()
    hard, (first, *_) = extended.answers(x)
    assert torch.equal(predicted(first), F.one_hot(first.argmax(dim=1), K))
    colder = [
        (stand_ins.Answers(extended, stand_ins.final, stand_ins.softly(temperature))(x) - hard).abs().max().item()
        for temperature in (1.0, 1e-2, 1e-6)
    ]
    assert colder[0] > 1e-2
    assert colder[0] > colder[1] >= colder[2]
    assert colder[2] < 1e-5
    assert torch.equal(stand_in("soft_mask", extended)(x), extended.answers(x, lambda q: q.softmax(dim=1))[0])
    if len(extended.blocks) == 1:
        # With one block the final logits are linear in the mask: the mean over classes of those with their masks.
        each = [extended.answers(x, labelled(torch.full((N,), k)))[0] for k in range(K)]
        mean = sum(first.softmax(dim=1)[:, k : k + 1] * logits for k, logits in enumerate(each))
        assert torch.allclose(stand_in("soft_mask", extended)(x), mean, atol=1e-5)


@pytest.mark.parametrize("build", NETWORKS)
def test_auxiliary_and_joint_logits(build):
    extended, plain = made(build)
    x, _ = batch_of_squares()
    extended.eval(), plain.eval()
    _, blocks = by_hand(plain, x, None)
    assert torch.allclose(stand_in("auxiliary", extended)(x), torch.stack(blocks).mean(dim=0), atol=1e-5)
    softened, soft_blocks = extended.answers(x, lambda q: q.softmax(dim=1))
    expected = softened + torch.stack(soft_blocks).mean(dim=0)
    assert torch.allclose(stand_in("joint", extended)(x), expected, atol=1e-5)


class Bright(Classifier):
    """A constant channel and one that grows with the brightness."""

    stage_names = ("layer1",)

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Conv2d(1, 2, 1)
        self.head = nn.Linear(2, 2)

    def features(self, x):
        return self.layer1(x).mean(dim=(2, 3))


def test_where_the_hard_mask_has_no_gradient_the_stand_ins_break_every_image():
    """The weights of class 0 see the constant channel alone, so that its mask hides the brightness from the gradient;
    the prediction changes at a mean of 0.5, which images of 0.3 reach within 0.3."""
    torch.manual_seed(0)
    model = ANCRA.extend(Bright(), shape=toys.SHAPE, classes=2, **defaults()).eval().requires_grad_(False)
    model.network.layer1.weight.copy_(torch.tensor([0.0, 2.0]).view(2, 1, 1, 1))
    model.network.layer1.bias.copy_(torch.tensor([1.0, 0.0]))
    model.head.weight.copy_(torch.eye(2))
    model.head.bias.zero_()
    x, y = 0.3 + 0.02 * torch.rand(8, *toys.SHAPE), torch.zeros(8, dtype=torch.long)
    start = x + 0.3 * (2 * torch.rand_like(x) - 1)

    def still_right(target: nn.Module, steps: int) -> int:
        found = ascend(lambda point: cross_entropy(target(point), y), start, 0.05, project_linf(x, 0.3), steps)
        return int((model(found).argmax(dim=1) == y).sum())

    assert still_right(model, 0) == 8
    assert still_right(model, 100) == 8
    assert {name: still_right(stand_in(name, model), 20) for name in ("soft_mask", "auxiliary", "joint")} == {
        "soft_mask": 0, "auxiliary": 0, "joint": 0,
    }  # fmt: skip


def test_its_numbers_need_attacks_that_know_it():
    assert ANCRA.gated
    assert {"aa_standard", "square"} <= set(ANCRA.mandatory)
    assert any(name.endswith("@auxiliary") for name in ANCRA.mandatory)
    assert REGISTRY.get(Defense, "ancra").spec == ANCRA
