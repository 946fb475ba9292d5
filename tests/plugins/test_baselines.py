"""harness_baselines against explicit formulas, and the inner attack that all defenses share."""

import copy
import math
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from harness.api import Architecture, Dataset, InnerAttack, Recipe
from harness.conformance import toys
from harness.registry import discovery
from harness.registry.names import default_value, parse_name
from harness.training.context import TrainContext
from harness.training.loop import learning_rate
from harness_baselines import harness_defenses, recipes
from harness_baselines.divergence import tpap_mask
from support.training import PreparedContext, toy_recipe, training_context

DEFENSES = {defense.name: defense for defense in harness_defenses()}
N, K = 32, 4
EPS = 0.1


def context_with(inner: InnerAttack) -> TrainContext:
    return training_context(toy_recipe(batch=N, inner=inner), eps=EPS, step=0.04)


def noisy_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, y = toys.toy_part(N).batch(slice(0, N), torch.device("cpu"))
    noise = 2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 1
    return x, y, (x + EPS * noise).clamp(0, 1)


def lucky_net() -> nn.Module:
    """In train mode it gets some images of the classes 1 and 2 right, by the luck of its seed."""
    return toys.tiny_net(K, seed=1).train()


def step(name, model, x, y, ctx, **given) -> torch.Tensor:
    params = {key: default_value(value) for key, value in DEFENSES[name].params.items()}
    assert given.keys() <= params.keys()
    return DEFENSES[name].step(model, x, y, ctx, **{**params, **given})


def cross_entropies(logits: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    """log sum exp z - z_y, image by image."""
    return [torch.log(torch.exp(z).sum()) - z[label] for z, label in zip(logits, y.tolist(), strict=True)]


@contextmanager
def forwards(model: nn.Module):
    """The forward passes of a network: how many images, and in which mode."""
    seen: list[tuple[int, bool]] = []
    handle = model.register_forward_hook(lambda module, inputs, output: seen.append((len(inputs[0]), module.training)))
    yield seen
    handle.remove()


@contextmanager
def inputs(model: nn.Module):
    """The images of every forward pass of a network."""
    seen: list[torch.Tensor] = []
    handle = model.register_forward_hook(lambda module, given, output: seen.append(given[0].detach().clone()))
    yield seen
    handle.remove()


def buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def same(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(before[name], after[name]) for name in before)


# --- losses ----------------------------------------------------------------------------------------------------------


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.exp(z) / torch.exp(z).sum() for z in logits])


def expected_loss(name, model, x, y, x_adv, given, detach=lambda what, value: value) -> torch.Tensor:
    """Sections 2 to 6 and 10 of the method sheet, image by image. `detach(what, value)` may cut a part off."""
    if name == "raw":
        return sum(cross_entropies(model(x), y)) / N
    if name in ("fgsm_at", "fast_at"):
        return sum(cross_entropies(model(x_adv), y)) / N
    if name == "pgd_at":
        adversarial = sum(cross_entropies(model(x_adv), y)) / N
        mix = given.get("mix", 0.0)
        return adversarial if mix == 0 else mix * sum(cross_entropies(model(x), y)) / N + (1 - mix) * adversarial
    if name in ("trades", "mart"):
        clean, adversarial = model(x), model(x_adv)
        p, q = detach("p", probabilities(clean)), detach("q", probabilities(adversarial))
        divergences = [sum(p[i, k] * torch.log(p[i, k] / q[i, k]) for k in range(K)) for i in range(N)]
        if name == "trades":
            return sum(cross_entropies(clean, y)) / N + given.get("beta", 6.0) * sum(divergences) / N
        loss = sum(cross_entropies(adversarial, y)) / N
        boost = detach("boost", probabilities(adversarial))
        sure = detach("weight", probabilities(clean))
        for i, label in enumerate(y.tolist()):
            others = max((boost[i, k] for k in range(K) if k != label), key=lambda value: value.item())
            weight = 1.0000001 - sure[i, label]
            if given.get("variant") == "tpap" and int(clean[i].argmax()) == label and label not in (0, 1):
                weight = 0.0
            loss = loss + (given.get("beta", 5.0) * divergences[i] * weight - torch.log(1.0001 - others + 1e-12)) / N
        return loss
    logits = model(torch.cat([x, x_adv]))
    clean, adversarial = logits[:N], logits[N:]
    terms = {"clean": cross_entropies(clean, y), "adv": cross_entropies(adversarial, y)}
    terms["both"] = terms["clean"] + terms["adv"]
    used = terms[given.get("ce", "both")]
    pairing = sum((clean[i, k] - adversarial[i, k]) ** 2 for i in range(N) for k in range(K)) / (N * K)
    return sum(used) / len(used) + given.get("weight", 1.0) * pairing


LOSSES = [
    ("raw", {}),
    ("pgd_at", {}),
    ("pgd_at", {"mix": 0.5}),
    ("pgd_at", {"mix": 0.25}),
    ("alp", {}),
    ("alp", {"ce": "clean"}),
    ("alp", {"ce": "adv"}),
    ("alp", {"weight": 0.5}),
    ("alp", {"weight": 3.0, "ce": "adv"}),
    ("trades", {}),
    ("trades", {"beta": 1.0}),
    ("mart", {}),
    ("mart", {"beta": 6.0}),
    ("mart", {"beta": 6.0, "variant": "tpap"}),
]


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *LOSSES, ("fgsm_at", {}), ("fgsm_at", {"statistics": "both"}), ("fast_at", {}),
        ("pgd_at", {"statistics": "both"}), ("trades", {"clean_passes": 1}),
    ],
)  # fmt: skip
def test_the_loss_and_its_gradient_are_those_of_the_formula(name, given):
    x, y, x_adv = noisy_batch()
    model = lucky_net()
    twin = copy.deepcopy(model)
    expected = expected_loss(name, twin, x, y, x_adv, given)
    expected.backward()
    found = step(name, model, x, y, PreparedContext(x_adv), **given)
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for (which, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4), which


def test_the_losses_differ():
    x, y, x_adv = noisy_batch()
    model = lucky_net()
    losses = [expected_loss(name, copy.deepcopy(model), x, y, x_adv, given).item() for name, given in LOSSES]
    assert min(abs(a - b) for i, a in enumerate(losses) for b in losses[:i]) > 1e-4


@pytest.mark.parametrize(("name", "parts"), [("trades", ("p", "q")), ("mart", ("p", "q", "boost", "weight"))])
def test_nothing_is_detached_in_a_divergence(name, parts):
    """The gradient of the formula with any one part cut off is another one than ours."""
    x, y, x_adv = noisy_batch()
    model = lucky_net()
    twin = copy.deepcopy(model)
    step(name, model, x, y, PreparedContext(x_adv)).backward()
    for cut in (None, *parts):
        twin.zero_grad()
        loss = expected_loss(
            name, twin, x, y, x_adv, {}, lambda what, value, cut=cut: value.detach() if what == cut else value
        )
        loss.backward()
        found = torch.cat([p.grad.flatten() for p in model.parameters()])
        wanted = torch.cat([p.grad.flatten() for p in twin.parameters()])
        assert torch.allclose(found, wanted, atol=1e-5, rtol=1e-3) == (cut is None), cut


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("raw", {}, [(N, True)]),
        ("pgd_at", {}, [(N, True)]),
        ("pgd_at", {"mix": 0.5}, [(N, True), (N, True)]),
        ("alp", {}, [(2 * N, True)]),
        ("alp", {"ce": "clean"}, [(2 * N, True)]),
        ("alp", {"ce": "adv"}, [(2 * N, True)]),
        ("pgd_at", {"statistics": "both"}, [(N, True)] * 2),
        ("trades", {"inner": "ce"}, [(N, True)] * 3),
        ("trades", {"inner": "ce", "clean_passes": 1}, [(N, True)] * 2),
        ("mart", {}, [(N, True)] * 2),
        ("mart", {"variant": "tpap"}, [(N, True)] * 2),
        ("fgsm_at", {}, [(N, True)]),
        ("fgsm_at", {"statistics": "both"}, [(N, True)] * 2),
        ("fast_at", {}, [(N, True)]),
    ],
)
def test_a_step_passes_forward_only_what_its_loss_needs(name, given, expected):
    x, y, x_adv = noisy_batch()
    model = toys.tiny_net(K).train()
    with forwards(model) as seen:
        step(name, model, x, y, PreparedContext(x_adv), **given)
    assert seen == expected


@pytest.mark.parametrize(
    ("name", "given", "order"),
    [
        ("pgd_at", {}, ["adv"]),
        ("pgd_at", {"mix": 0.5}, ["adv", "clean"]),
        ("pgd_at", {"statistics": "both"}, ["clean", "adv"]),
        ("trades", {"inner": "ce"}, ["clean", "adv", "clean"]),
        ("trades", {"inner": "ce", "clean_passes": 1}, ["clean", "adv"]),
        ("mart", {}, ["clean", "adv"]),
        ("fgsm_at", {}, ["adv"]),
        ("fgsm_at", {"statistics": "both"}, ["clean", "adv"]),
        ("fast_at", {}, ["adv"]),
    ],
)
def test_batch_norm_sees_clean_and_adversarial_images_in_the_order_of_the_reference_code(name, given, order):
    x, y, x_adv = noisy_batch()
    model = toys.tiny_net(K).train()
    twin = copy.deepcopy(model)
    with inputs(model) as seen:
        step(name, model, x, y, PreparedContext(x_adv), **given)
    expected = [x if which == "clean" else x_adv for which in order]
    assert [torch.equal(found, wanted) for found, wanted in zip(seen, expected, strict=True)] == [True] * len(order)
    for images in expected:
        twin(images)
    assert same(buffers(twin), buffers(model))


def test_pairing_sends_gradient_through_both_branches():
    x, y, x_adv = noisy_batch()
    x, x_adv = x.requires_grad_(True), x_adv.requires_grad_(True)
    loss = step(
        "alp", toys.tiny_net(K), x, y, PreparedContext(x_adv), weight=1000.0, ce="adv"
    )  # eval: rows are independent
    for_clean, for_adversarial = torch.autograd.grad(loss, [x, x_adv])
    assert (for_clean.flatten(1).abs().sum(dim=1) > 0).all()
    assert (for_adversarial.flatten(1).abs().sum(dim=1) > 0).all()


def test_alp_puts_the_union_of_clean_and_adversarial_through_batch_norm_at_once():
    x, y, x_adv = noisy_batch()
    model = toys.tiny_net(K).train()
    conv, norm = model.layer1[0], model.layer1[1]
    with torch.no_grad():
        union = conv(torch.cat([x, x_adv])).transpose(0, 1).flatten(1)
    expected_mean = 0.9 * norm.running_mean + 0.1 * union.mean(dim=1)
    expected_var = 0.9 * norm.running_var + 0.1 * union.var(dim=1, unbiased=True)
    step("alp", model, x, y, PreparedContext(x_adv))
    assert int(norm.num_batches_tracked) == 1
    assert torch.allclose(norm.running_mean, expected_mean, atol=1e-6)
    assert torch.allclose(norm.running_var, expected_var, atol=1e-6)


class Table(nn.Module):
    """Logits by image: those of the clean images, which are black, and those of the adversarial ones, which are not."""

    def __init__(self, clean, adversarial):
        super().__init__()
        self.clean, self.adversarial = (
            nn.Parameter(torch.tensor(rows, dtype=torch.float64)) for rows in (clean, adversarial)
        )

    def forward(self, x):
        return self.adversarial if x.any() else self.clean


def of_tables(name, clean, adversarial, y, **given):
    model = Table(clean, adversarial)
    x = torch.zeros(len(y), 1, 1, 1, dtype=torch.float64)
    loss = step(name, model, x, torch.tensor(y), PreparedContext(torch.ones_like(x)), **given)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    return loss.item()


def test_the_constants_of_mart_where_they_decide():
    """Row by row: where another class is certain, the logarithms are those of the constants, and where the clean
    prediction is certain, what is left of the weight is 1e-7."""
    rows = {"wrong": ([0, 0, 0], [0, 800, 0]), "sure": ([800, 0, 0], [0, 0, 0])}
    boosted = {
        "wrong": 800 - math.log(1.0001 - 1 + 1e-12),
        "sure": math.log(3) - math.log(1.0001 - 1 / 3 + 1e-12),
    }
    divergence = {
        "wrong": (1.0000001 - 1 / 3) * (-3 * math.log(3) - 2 * math.log(1e-12) - math.log(1 + 1e-12)) / 3,
        "sure": (1.0000001 - 1) * -math.log(1 / 3 + 1e-12),
    }
    for which, (clean, adversarial) in rows.items():
        assert of_tables("mart", [clean], [adversarial], [0], beta=0.0) == pytest.approx(boosted[which], rel=1e-13)
        for beta in (5.0, 1e9):
            expected = boosted[which] + beta * divergence[which]
            assert of_tables("mart", [clean], [adversarial], [0], beta=beta) == pytest.approx(expected, rel=1e-9)
    both = of_tables("mart", *zip(*rows.values(), strict=True), [0, 0], beta=5.0)
    assert both == pytest.approx((sum(boosted.values()) + 5 * sum(divergence.values())) / 2, rel=1e-12)


def test_trades_by_hand():
    """Two classes, p = (1/2, 1/2) and q = (3/4, 1/4): the divergence is log 2 - log 3 / 2, and log(2 / sqrt 3)."""
    loss = of_tables("trades", [[0, 0], [0, 0]], [[math.log(3), 0], [0, 0]], [0, 1], beta=6.0)
    assert loss == pytest.approx(math.log(2) + 6 * math.log(2 / math.sqrt(3)) / 2, rel=1e-12)


def test_the_mask_of_tpap_on_all_ten_classes():
    """1e-7 is at least half of the distance between float32 numbers at 1, and less than half of it at 2 and above."""
    for label in range(10):
        assert (np.spacing(np.float32(label)) / 2 <= np.float32(1e-7)) == (label in (0, 1))
        for predicted in range(10):
            mask = tpap_mask(torch.tensor([predicted]), torch.tensor([label]))
            assert mask.dtype == torch.float32
            assert mask.item() == float(np.float32(predicted) + np.float32(1e-7) != np.float32(label))
            assert mask.item() == float(predicted != label or label in (0, 1))


@pytest.mark.parametrize("label", range(10))
@pytest.mark.parametrize("predicted", [0, 4])
def test_the_variant_of_tpap_keeps_the_divergence_of_the_rows_that_its_mask_keeps(label, predicted):
    clean, adversarial = [0.0] * 10, [0.0] * 10
    clean[predicted], adversarial[7] = 2.0, 1.0
    reference, tpap, none = (
        of_tables("mart", [clean], [adversarial], [label], beta=beta, variant=variant)
        for beta, variant in ((6.0, "reference"), (6.0, "tpap"), (0.0, "reference"))
    )
    assert tpap == (reference if predicted != label or label in (0, 1) else none)
    assert reference != none


# --- the inner attack ------------------------------------------------------------------------------------------------

STARTS = ("uniform", "normal", "none")


@pytest.mark.parametrize("start", STARTS)
def test_the_inner_attack_leaves_the_network_as_it_was(start):
    x, y, _ = noisy_batch()
    model = toys.tiny_net(K).train()
    model.layer2.eval()  # a frozen part must stay as it is, too
    model.layer1[0].weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    needed = [p.requires_grad for p in model.parameters()]
    weights, stats = copy.deepcopy(model.state_dict()), buffers(model)
    with forwards(model) as seen:
        context_with(InnerAttack(steps=3, start=start)).perturb(model, x, y)
    assert seen == [(N, False)] * 3
    assert same(stats, buffers(model))
    assert same(weights, model.state_dict())
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == needed
    assert all(p.grad is None for p in model.parameters())


def test_the_inner_attack_in_train_mode_moves_the_running_statistics():
    x, y, _ = noisy_batch()
    model = toys.tiny_net(K).train()
    stats = buffers(model)
    with forwards(model) as seen:
        context_with(InnerAttack(steps=3, mode="train")).perturb(model, x, y)
    assert seen == [(N, True)] * 3
    assert int(model.layer1[1].num_batches_tracked) == 3
    assert not torch.equal(stats["layer1.1.running_mean"], model.layer1[1].running_mean)


EVAL, TRAIN, UNION = (N, False), (N, True), (2 * N, True)


@pytest.mark.parametrize(
    ("name", "given", "mode", "expected"),
    [
        ("raw", {}, "eval", [TRAIN]),
        ("pgd_at", {}, "eval", [EVAL] * 3 + [TRAIN]),
        ("pgd_at", {"attack_mode": "train"}, "eval", [TRAIN] * 4),
        ("alp", {}, "eval", [EVAL] * 3 + [UNION]),
        ("alp", {}, "train", [TRAIN] * 3 + [UNION]),
        ("trades", {}, "eval", [EVAL] * 4 + [TRAIN] * 3),
        ("trades", {"inner": "ce"}, "eval", [EVAL] * 3 + [TRAIN] * 3),
        ("trades", {"inner": "fgsm"}, "eval", [EVAL] + [TRAIN] * 3),
        ("mart", {}, "eval", [EVAL] * 3 + [TRAIN] * 2),
        ("mart", {"inner": "fgsm", "variant": "tpap"}, "train", [EVAL] + [TRAIN] * 2),
        ("fgsm_at", {}, "eval", [EVAL, TRAIN]),
        ("fgsm_at", {}, "train", [EVAL, TRAIN]),
        ("fgsm_at", {"statistics": "both"}, "eval", [EVAL] + [TRAIN] * 2),
        ("fast_at", {}, "eval", [TRAIN, TRAIN]),
    ],
)
def test_a_step_attacks_in_its_mode_and_leaves_no_gradient(name, given, mode, expected):
    """Three inner steps or one, then the passes of the loss; batch norm moves in train mode only."""
    x, y, _ = noisy_batch()
    model = toys.tiny_net(K).train()
    with forwards(model) as seen:
        step(name, model, x, y, context_with(InnerAttack(steps=3, mode=mode)), **given)
    assert seen == expected
    assert all(p.grad is None for p in model.parameters())
    assert int(model.layer1[1].num_batches_tracked) == sum(training for _, training in expected)


@pytest.mark.parametrize(
    ("name", "given", "start"),
    [
        ("trades", {}, "normal"),
        ("trades", {"start": "uniform"}, "uniform"),
        ("trades", {"inner": "ce"}, "normal"),
        ("trades", {"inner": "ce", "start": "uniform"}, "uniform"),
        ("trades", {"inner": "fgsm"}, "none"),
        ("mart", {}, "normal"),
        ("mart", {"start": "uniform"}, "uniform"),
        ("mart", {"inner": "fgsm", "start": "uniform"}, "none"),
        ("fgsm_at", {}, "none"),
        ("fast_at", {}, "uniform"),
    ],
)
@pytest.mark.parametrize("of_recipe", STARTS)
def test_a_step_starts_its_attack_where_its_paper_does_whatever_the_recipe_says(name, given, start, of_recipe):
    x, y, _ = noisy_batch()
    x = 0.2 + 0.6 * x  # off the ends of the range, where a uniform start would be clipped
    model = toys.tiny_net(K).train()
    with inputs(model) as seen:
        torch.manual_seed(9)
        step(name, model, x, y, context_with(InnerAttack(steps=2, start=of_recipe)), **given)
    first = seen[1] if name == "trades" and given.get("inner") is None else seen[0]  # a divergence needs a target first
    offset = (first - x).double()
    if start == "none":
        assert torch.equal(first, x)
    elif start == "normal":
        assert 0.00095 < offset.std() < 0.00105
        assert offset.mean().abs() < 5e-3 / math.sqrt(x.numel())
        assert offset.abs().max() > 0.0025
    else:
        assert offset.abs().max() <= EPS + 1e-7
        assert offset.std() == pytest.approx(EPS / math.sqrt(3), rel=0.05)
        assert offset.mean().abs() < 5 * EPS / math.sqrt(3 * x.numel())


def handed_over(name, model, x, y, ctx, **given) -> torch.Tensor:
    """The adversarial images that a loss is given: the last that pass, or the last but one where clean ones follow."""
    with inputs(model) as seen:
        step(name, model, x, y, ctx, **given)
    return seen[-2] if name == "trades" else seen[-1]


@pytest.mark.parametrize(
    ("name", "given"), [("fgsm_at", {}), ("trades", {"inner": "fgsm"}), ("mart", {"inner": "fgsm"})]
)
@pytest.mark.parametrize("inner", [InnerAttack(steps=7), InnerAttack(steps=1, start="normal", mode="train")])
def test_fgsm_takes_one_step_of_eps_from_the_image_itself_whatever_the_recipe_says(name, given, inner):
    x, y, _ = noisy_batch()
    x[:, :, 0], x[:, :, 7] = 0.0, 1.0
    model = toys.tiny_net(K).train()
    point = x.clone().requires_grad_(True)
    loss = sum(cross_entropies(copy.deepcopy(model).eval()(point), y))
    (gradient,) = torch.autograd.grad(loss, point)
    expected = torch.clamp(x + EPS * gradient.sign(), 0, 1)
    found = handed_over(name, model, x, y, context_with(inner), **given)
    clear = gradient.abs() > 1e-6  # where rounding cannot turn the sign
    assert clear.double().mean() > 0.9
    assert torch.allclose(found[clear], expected[clear], atol=1e-6)
    assert (found - x).abs().max() == pytest.approx(EPS, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.25, 3.0])
def test_fast_at_takes_one_step_of_alpha_eps_against_the_network_in_train_mode(alpha):
    x, y, _ = noisy_batch()
    x[:, :, 0], x[:, :, 7] = 0.0, 1.0
    model = toys.tiny_net(K).train()
    twin = copy.deepcopy(model)
    torch.manual_seed(2)
    start = torch.clamp(x + EPS * (2 * torch.rand_like(x) - 1), 0, 1)
    point = start.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(sum(cross_entropies(twin(point), y)), point)
    moved = start + alpha * EPS * gradient.sign()
    expected = torch.clamp(torch.minimum(torch.maximum(moved, x - EPS), x + EPS), 0, 1)
    torch.manual_seed(2)
    found = handed_over("fast_at", model, x, y, context_with(InnerAttack(steps=7)), alpha=alpha)
    clear = gradient.abs() > 1e-6
    assert clear.double().mean() > 0.9
    assert torch.allclose(found[clear], expected[clear], atol=1e-6)
    assert DEFENSES["fast_at"].params == {"alpha": 1.25}


def test_the_images_of_trades_climb_the_divergence_from_the_clean_prediction():
    x, y, _ = noisy_batch()
    x = x.double()
    model = toys.tiny_net(K).double().train()
    twin = copy.deepcopy(model).eval()
    torch.manual_seed(6)
    point = x + 0.001 * torch.randn_like(x)
    p = probabilities(twin(x)).detach()
    for _ in range(4):
        point = point.detach().requires_grad_(True)
        q = probabilities(twin(point))
        (gradient,) = torch.autograd.grad((p * torch.log(p / q)).sum(), point)
        moved = point + 0.04 * gradient.sign()
        point = torch.clamp(torch.minimum(torch.maximum(moved, x - EPS), x + EPS), 0, 1)
    torch.manual_seed(6)
    found = handed_over("trades", model, x, y, context_with(InnerAttack(steps=4)))
    assert torch.allclose(found, point, atol=1e-12)
    torch.manual_seed(6)
    assert not torch.allclose(handed_over("trades", model, x, y, context_with(InnerAttack(steps=4)), inner="ce"), point)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_perturbed_images_are_detached_inside_the_ball_and_inside_the_range(start, mode):
    x, y, _ = noisy_batch()
    x[:, :, 0], x[:, :, 7] = 0.0, 1.0  # pixels at both ends, where the range bites
    before = x.clone()
    torch.manual_seed(0)
    x_adv = context_with(InnerAttack(steps=5, start=start, mode=mode)).perturb(toys.tiny_net(K).train(), x, y)
    assert not x_adv.requires_grad
    assert x_adv.grad_fn is None
    assert (x_adv.double() - x.double()).abs().max() <= EPS + 1e-7
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert torch.equal(x, before)
    assert not torch.equal(x_adv, x)
    assert (x_adv - x).abs().max() > 0.99 * EPS  # five steps of 0.04 reach the edge of the ball


def test_the_inner_attack_is_foolbox_pgd_from_the_same_start(foolbox):
    import eagerpy

    x, y, _ = noisy_batch()
    model = toys.tiny_net(K)
    torch.manual_seed(4)
    start = x + EPS * (2 * torch.rand_like(x) - 1)

    class Attack(foolbox.attacks.LinfProjectedGradientDescentAttack):
        def get_random_start(self, x0, epsilon):
            return eagerpy.astensor(start)

    bounded = foolbox.PyTorchModel(copy.deepcopy(model).requires_grad_(False), bounds=(0, 1), device="cpu")
    attack = Attack(abs_stepsize=0.04, steps=7, random_start=True)
    theirs = attack.run(bounded, x, foolbox.criteria.Misclassification(y), epsilon=EPS)
    torch.manual_seed(4)
    assert torch.equal(context_with(InnerAttack(steps=7)).perturb(model.train(), x, y), theirs)


@pytest.mark.parametrize(("steps", "start", "full"), [(5, "uniform", EPS), (1, "none", 0.04)])
def test_the_ramp_grows_budget_and_step_from_nothing(steps, start, full):
    x, y, _ = noisy_batch()
    ctx, model = context_with(InnerAttack(steps=steps, start=start, ramp_epochs=4)), toys.tiny_net(K)
    reached = []
    for progress in (0.0, 1.0, 2.0, 4.0, 9.0):
        ctx.progress = progress
        reached.append(float((ctx.perturb(model, x, y) - x).abs().max()))
    assert reached[0] == 0
    assert reached[1:] == pytest.approx([full / 4, full / 2, full, full], abs=1e-6)


# --- recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "rates"),
    [
        # TRADES and MART count epochs from 1 in `epoch >= 75`; TPAP from 0, on CIFAR-100 stepping after the epoch.
        (recipes.TRADES_CIFAR10, [0.1] * 74 + [0.01] * 2),
        (recipes.MART_RESNET, [0.01] * 74 + [0.001] * 15 + [1e-4] * 10 + [1e-5] * 21),
        (recipes.MART_WIDE, [0.1] * 74 + [0.01] * 15 + [0.001]),
        (recipes.TPAP, [0.01] * 75 + [0.001] * 15 + [1e-4] * 20 + [1e-5] * 10),
        (recipes.TPAP_FGSM, [0.01] * 75 + [0.001] * 15 + [1e-4] * 10),
        (recipes.TPAP_SLIDES, [0.01] * 75 + [0.001] * 15 + [1e-4] * 60),
        (recipes.TPAP_FGSM_CIFAR100, [0.01] * 76 + [0.001] * 15 + [1e-4] * 50 + [1e-5] * 9),
        (recipes.TRADES_MNIST, [0.01] * 54 + [0.001] * 20 + [1e-4] * 15 + [1e-5] * 11),
        (recipes.SIMPLE_STRUCTURE, [0.01] * 150),
    ],
    ids=lambda value: value.name if isinstance(value, Recipe) else "",
)
def test_the_printed_schedules(recipe, rates):
    assert [learning_rate(recipe, epoch) for epoch in range(recipe.epochs)] == pytest.approx(rates)


def test_the_rates_of_fast_at_are_those_of_the_scheduler_that_its_code_steps_after_each_batch():
    batches = 7
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2, momentum=0.9)
    half = recipes.FAST.epochs * batches / 2
    scheduler = torch.optim.lr_scheduler.CyclicLR(
        optimizer, base_lr=0.0, max_lr=0.2, step_size_up=half, step_size_down=half
    )
    for batch in range(recipes.FAST.epochs * batches):
        found = learning_rate(recipes.FAST, batch // batches + batch % batches / batches)
        assert found == pytest.approx(scheduler.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        scheduler.step()


PGD10 = (10, Fraction("0.031"), Fraction("0.007"), "normal")
FGSM = (20, Fraction(8, 255), Fraction("0.003"), "uniform")
"""Of TPAP's FGSM training eps counts; the others are those of the PGD that it is watched with."""
STATED = {
    # repository and script: network, optimiser, rate, momentum, decay, epochs, batch, augmentation, inner attack
    ("raw", "cifar10", "tpap"): ("resnet18", 0.01, 0.9, 1e-3, 150, 128, "crop-flip", PGD10),
    ("raw", "cifar10", "simple-structure"): ("resnet34", 0.01, 0.9, 5e-4, 150, 64, "resized-crop-flip", None),
    ("pgd_at", "cifar10", "tpap"): ("resnet18", 0.01, 0.9, 1e-3, 120, 128, "crop-flip", PGD10),
    ("pgd_at", "cifar10", "tpap-wide"): ("wrn34_10", 0.01, 0.9, 1e-3, 120, 64, "crop-flip", PGD10),
    ("pgd_at", "cifar100", "tpap-wide"): ("wrn34_10", 0.01, 0.9, 1e-3, 120, 64, "crop-flip", PGD10),
    ("pgd_at", "svhn", "tpap"): ("resnet18", 0.01, 0.9, 1e-3, 120, 128, "none", PGD10),
    ("pgd_at", "tiny-imagenet", "tpap"): ("resnet18", 0.01, 0.9, 1e-3, 100, 128, "flip", PGD10),
    ("fgsm_at", "cifar10", "tpap-fgsm"): ("resnet18", 0.01, 0.9, 1e-3, 100, 128, "crop-flip", FGSM),
    ("fgsm_at", "cifar100", "tpap-fgsm"):
        ("resnet18", 0.01, 0.9, 1e-3, 150, 128, "crop-flip", (20, Fraction(12, 255), Fraction("0.003"), "uniform")),
    ("fgsm_at", "svhn", "tpap-fgsm-wide"): ("wrn34_10", 0.01, 0.9, 1e-3, 100, 64, "none", FGSM),
    ("fgsm_at", "tiny-imagenet", "tpap-fgsm"): ("resnet18", 0.01, 0.9, 1e-3, 100, 64, "flip", FGSM),
    ("trades", "mnist", "trades"): (
        "small_cnn[zero_head=true]", 0.01, 0.9, 0.0, 100, 128, "none", (40, Fraction(3, 10), Fraction("0.01"), "normal")
    ),
    ("trades", "cifar10", "trades"): ("wrn34_10", 0.1, 0.9, 2e-4, 76, 128, "crop-flip", PGD10),
    ("mart", "cifar10", "mart"): ("resnet18", 0.01, 0.9, 3.5e-3, 120, 128, "crop-flip", PGD10),
    ("mart", "cifar10", "mart-wide"): ("wrn34_10", 0.1, 0.9, 7e-4, 90, 128, "crop-flip", PGD10),
    ("mart", "cifar100", "tpap"): ("resnet18", 0.01, 0.9, 1e-3, 120, 128, "crop-flip", PGD10),
}  # fmt: skip


@pytest.mark.parametrize(("which", "stated"), STATED.items(), ids=["-".join(which) for which in STATED])
def test_the_settings_are_those_of_the_published_scripts(which, stated):
    name, dataset, recipe = which
    defense = DEFENSES[name]
    offered = [*defense.recipes.get(dataset, ()), *defense.more_recipes.get(dataset, ())]
    (found,) = (one for one in offered if one.name == recipe)
    inner = (found.inner.steps, found.inner.eps, found.inner.step, found.inner.start)
    arch, rate, momentum, decay, epochs, batch, augment, attack = stated
    assert (found.arch, found.lr, found.momentum, found.weight_decay) == (arch, rate, momentum, decay)
    assert (found.epochs, found.batch, found.augment, found.optimizer) == (epochs, batch, augment, "sgd")
    assert attack is None or inner == attack
    assert (found.inner.mode, found.selection) == ("eval", "last")


def test_every_recipe_names_an_installed_network_and_dataset_and_no_name_twice():
    registry = discovery.discover()
    networks = {entry.spec.name for entry in registry.entries(Architecture)}
    datasets = {entry.spec.name: entry.spec for entry in registry.entries(Dataset)}
    for defense in DEFENSES.values():
        for dataset in {*defense.recipes, *defense.more_recipes}:
            own = (*defense.recipes.get(dataset, ()), *defense.more_recipes.get(dataset, ()))
            assert {parse_name(recipe.arch)[0] for recipe in own} <= networks
            names = [recipe.name for recipe in (*own, *datasets[dataset].recipes)]
            assert len(set(names)) == len(names)


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_the_defenses_of_the_boards_train_with_the_recipes_of_the_dataset(dataset):
    """So that raw, pgd_at, alp and trades stay comparable with aalp where they are compared."""
    assert all(dataset not in DEFENSES[name].recipes for name in ("raw", "pgd_at", "alp", "trades"))
