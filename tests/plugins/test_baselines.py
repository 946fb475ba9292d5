"""harness_baselines against explicit formulas, and the inner attack that all defenses share."""

import copy
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from harness.api import InnerAttack, Recipe
from harness.conformance import toys
from harness.names import default_value
from harness.training import TrainContext
from harness_baselines import harness_defenses

DEFENSES = {defense.name: defense for defense in harness_defenses()}
N, K = 32, 4
EPS = 0.1


class Given:
    """A training context whose perturbation is prepared."""

    def __init__(self, x_adv: torch.Tensor) -> None:
        self.x_adv = x_adv

    def perturb(self, model, x, y):
        return self.x_adv


def context(inner: InnerAttack) -> TrainContext:
    return TrainContext(
        recipe=Recipe(name="toy", arch="toy", epochs=1, batch=N, lr=1e-3, inner=inner), seed=0, train=toys.toy_part(),
        validation=toys.toy_part(), eps=EPS, step=0.04, device=torch.device("cpu"),
    )  # fmt: skip


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, y = toys.toy_part(N).batch(slice(0, N), torch.device("cpu"))
    noise = 2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 1
    return x, y, (x + EPS * noise).clamp(0, 1)


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


def buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def same(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(before[name], after[name]) for name in before)


# --- losses ----------------------------------------------------------------------------------------------------------


def expected_loss(name, model, x, y, x_adv, given) -> torch.Tensor:
    if name == "raw":
        return sum(cross_entropies(model(x), y)) / N
    if name == "pgd_at":
        adversarial = sum(cross_entropies(model(x_adv), y)) / N
        mix = given.get("mix", 0.0)
        return adversarial if mix == 0 else mix * sum(cross_entropies(model(x), y)) / N + (1 - mix) * adversarial
    logits = model(torch.cat([x, x_adv]))
    clean, adversarial = logits[:N], logits[N:]
    terms = {"clean": cross_entropies(clean, y), "adv": cross_entropies(adversarial, y)}
    terms["both"] = terms["clean"] + terms["adv"]
    used = terms[given.get("ce", "both")]
    pairing = sum((clean[i, k] - adversarial[i, k]) ** 2 for i in range(N) for k in range(K)) / (N * K)
    return sum(used) / len(used) + given.get("weight", 1.0) * pairing


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("raw", {}),
        ("pgd_at", {}),
        ("pgd_at", {"mix": 0.5}),
        ("pgd_at", {"mix": 0.25}),
        ("alp", {}),
        ("alp", {"ce": "clean"}),
        ("alp", {"ce": "adv"}),
        ("alp", {"weight": 0.5}),
        ("alp", {"weight": 3.0, "ce": "adv"}),
    ],
)
def test_the_loss_and_its_gradient_are_those_of_the_formula(name, given):
    x, y, x_adv = batch()
    model = toys.tiny_net(K).train()
    twin = copy.deepcopy(model)
    expected = expected_loss(name, twin, x, y, x_adv, given)
    expected.backward()
    found = step(name, model, x, y, Given(x_adv), **given)
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for (which, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4), which


def test_the_losses_differ():
    x, y, x_adv = batch()
    cases = [
        ("raw", {}), ("pgd_at", {}), ("pgd_at", {"mix": 0.5}), ("pgd_at", {"mix": 0.25}), ("alp", {}),
        ("alp", {"ce": "clean"}), ("alp", {"ce": "adv"}), ("alp", {"weight": 0.5}), ("alp", {"weight": 3.0}),
    ]  # fmt: skip
    model = toys.tiny_net(K).train()
    losses = [expected_loss(name, copy.deepcopy(model), x, y, x_adv, given).item() for name, given in cases]
    assert min(abs(a - b) for i, a in enumerate(losses) for b in losses[:i]) > 1e-4


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("raw", {}, [(N, True)]),
        ("pgd_at", {}, [(N, True)]),
        ("pgd_at", {"mix": 0.5}, [(N, True), (N, True)]),
        ("alp", {}, [(2 * N, True)]),
        ("alp", {"ce": "clean"}, [(2 * N, True)]),
        ("alp", {"ce": "adv"}, [(2 * N, True)]),
    ],
)
def test_a_step_passes_forward_only_what_its_loss_needs(name, given, expected):
    x, y, x_adv = batch()
    model = toys.tiny_net(K).train()
    with forwards(model) as seen:
        step(name, model, x, y, Given(x_adv), **given)
    assert seen == expected


def test_pgd_at_without_a_mix_never_sees_the_clean_images():
    x, y, x_adv = batch()
    model = toys.tiny_net(K).train()
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    step("pgd_at", model, x, y, Given(x_adv), mix=0.0)
    assert len(seen) == 1
    assert torch.equal(seen[0], x_adv)


def test_pairing_sends_gradient_through_both_branches():
    x, y, x_adv = batch()
    x, x_adv = x.requires_grad_(True), x_adv.requires_grad_(True)
    loss = step("alp", toys.tiny_net(K), x, y, Given(x_adv), weight=1000.0, ce="adv")  # eval: rows are independent
    for_clean, for_adversarial = torch.autograd.grad(loss, [x, x_adv])
    assert (for_clean.flatten(1).abs().sum(dim=1) > 0).all()
    assert (for_adversarial.flatten(1).abs().sum(dim=1) > 0).all()


def test_alp_puts_the_union_of_clean_and_adversarial_through_batch_norm_at_once():
    x, y, x_adv = batch()
    model = toys.tiny_net(K).train()
    conv, norm = model.layer1[0], model.layer1[1]
    with torch.no_grad():
        union = conv(torch.cat([x, x_adv])).transpose(0, 1).flatten(1)
    expected_mean = 0.9 * norm.running_mean + 0.1 * union.mean(dim=1)
    expected_var = 0.9 * norm.running_var + 0.1 * union.var(dim=1, unbiased=True)
    step("alp", model, x, y, Given(x_adv))
    assert int(norm.num_batches_tracked) == 1
    assert torch.allclose(norm.running_mean, expected_mean, atol=1e-6)
    assert torch.allclose(norm.running_var, expected_var, atol=1e-6)


# --- the inner attack ------------------------------------------------------------------------------------------------

STARTS = ("uniform", "normal", "none")


@pytest.mark.parametrize("start", STARTS)
def test_the_inner_attack_leaves_the_network_as_it_was(start):
    x, y, _ = batch()
    model = toys.tiny_net(K).train()
    model.layer2.eval()  # a frozen part must stay as it is, too
    model.layer1[0].weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    needed = [p.requires_grad for p in model.parameters()]
    weights, stats = copy.deepcopy(model.state_dict()), buffers(model)
    with forwards(model) as seen:
        context(InnerAttack(steps=3, start=start)).perturb(model, x, y)
    assert seen == [(N, False)] * 3
    assert same(stats, buffers(model))
    assert same(weights, model.state_dict())
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == needed
    assert all(p.grad is None for p in model.parameters())


def test_the_inner_attack_in_train_mode_moves_the_running_statistics():
    x, y, _ = batch()
    model = toys.tiny_net(K).train()
    stats = buffers(model)
    with forwards(model) as seen:
        context(InnerAttack(steps=3, mode="train")).perturb(model, x, y)
    assert seen == [(N, True)] * 3
    assert int(model.layer1[1].num_batches_tracked) == 3
    assert not torch.equal(stats["layer1.1.running_mean"], model.layer1[1].running_mean)


@pytest.mark.parametrize("name", ["pgd_at", "alp"])
def test_a_step_leaves_no_gradient_and_one_update_of_the_running_statistics(name):
    x, y, _ = batch()
    model = toys.tiny_net(K).train()
    with forwards(model) as seen:
        step(name, model, x, y, context(InnerAttack(steps=3)))
    assert seen == [(N, False)] * 3 + [(N if name == "pgd_at" else 2 * N, True)]
    assert all(p.grad is None for p in model.parameters())
    assert int(model.layer1[1].num_batches_tracked) == 1


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_perturbed_images_are_detached_inside_the_ball_and_inside_the_range(start, mode):
    x, y, _ = batch()
    x[:, :, 0], x[:, :, 7] = 0.0, 1.0  # pixels at both ends, where the range bites
    before = x.clone()
    torch.manual_seed(0)
    x_adv = context(InnerAttack(steps=5, start=start, mode=mode)).perturb(toys.tiny_net(K).train(), x, y)
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

    x, y, _ = batch()
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
    assert torch.equal(context(InnerAttack(steps=7)).perturb(model.train(), x, y), theirs)


@pytest.mark.parametrize(("steps", "start", "full"), [(5, "uniform", EPS), (1, "none", 0.04)])
def test_the_ramp_grows_budget_and_step_from_nothing(steps, start, full):
    x, y, _ = batch()
    ctx, model = context(InnerAttack(steps=steps, start=start, ramp_epochs=4)), toys.tiny_net(K)
    reached = []
    for progress in (0.0, 1.0, 2.0, 4.0, 9.0):
        ctx.progress = progress
        reached.append(float((ctx.perturb(model, x, y) - x).abs().max()))
    assert reached[0] == 0
    assert reached[1:] == pytest.approx([full / 4, full / 2, full, full], abs=1e-6)
