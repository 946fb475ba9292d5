"""harness_gradient against foolbox, torchattacks and brute force; both sides start from the same tensor."""

import functools
import itertools
from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from torch import nn

from harness.evaluation.judge import Judge
from harness.evaluation.measurement import Measurement
from harness.ops import margin
from harness.types import ThreatModel
from harness_gradient import harness_attacks
from support.attacks import (
    Crafted,
    Times,
    context_on,
    conv_net,
    crafted,
    images_at_the_border,
    labels_of,
    misclassified,
    resolved,
    unit_noise,
)
from support.measure import cell_of, evaluated, shard_of

ATTACKS = {attack.name: attack for attack in harness_attacks()}
SHAPE = (1, 8, 8)
N = 16  # a power of two, so that the mean and the sum of the losses have gradients of the same bits, scaled
EPS = Fraction(1, 4)  # a power of two, so that eps * (drawn / eps) gives back what a library drew, bit for bit
STEP = Fraction(1, 16)


@functools.cache
def net(classes: int = 5, factor: float = 1.0, seed: int = 0) -> nn.Module:
    return Times(conv_net(SHAPE, classes, seed), factor).eval().requires_grad_(False)


class Bands(nn.Module):
    """Class 0 nearly everywhere, others in narrow bands: steps jump over them and back, and the start matters."""

    def __init__(self, frequency: float, height: float) -> None:
        super().__init__()
        self.height = height
        self.direction = nn.Parameter(frequency * torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) / 8)

    def forward(self, x):
        waves = torch.sin(x.flatten(1) @ self.direction)
        return 10 * torch.cat([torch.full_like(waves[:, :1], self.height), waves], dim=1)


@functools.cache
def bands(frequency: float = 8.0, height: float = 0.95) -> nn.Module:
    return Bands(frequency, height).eval().requires_grad_(False)


@functools.cache
def images(model: nn.Module, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that touch 0 and 1, labelled by the model, one in eight wrongly."""
    x = images_at_the_border(N, SHAPE, seed)
    return x, labels_of(model, x)


def run(name, model, x, y, *, eps=EPS, step=STEP, **params) -> Crafted:
    """Call an attack the way the harness does, on given noise where `noise` is given; `wanted`: snapshots."""
    given = {key: params.pop(key) for key in ("noise", "wanted", "examples") if key in params}
    threat = ThreatModel(kind="linf", eps=eps)
    return crafted(ATTACKS[name], model, x, y, threat, resolved(ATTACKS[name], params, step), **given)


def measure(name, model, x, y, steps: Sequence[int] = (), *, eps=EPS, step=STEP, batch=N, **params):
    """Judge an attack through the harness, one measurement for each number of steps, from one run."""
    threat = ThreatModel(kind="linf", eps=eps)
    values = resolved(ATTACKS[name], params, step)
    cells = [cell_of(name, threat, {**values, "steps": s} if s else values) for s in steps or (0,)]
    judge = Judge(model, model(x[:1]).shape[1], x.shape[1:])
    found = evaluated(judge, shard_of(x, y), ATTACKS[name], cells, batch=batch).results
    assert all(isinstance(one, Measurement) for one in found), found
    return found


def as_flags(bits: str) -> list[bool]:
    return [bit == "1" for bit in bits]


def wrong(model, x, y) -> list[bool]:
    return misclassified(model, x, y).tolist()


def foolbox_run(foolbox, attack, model, x, criterion, eps=EPS):
    """The attack itself, without foolbox's own clipping of the result to the ball."""
    bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return attack.run(bounded, x, criterion, epsilon=float(eps))


def foolbox_pgd(foolbox, model, x, y, steps, *, eps=EPS, step=STEP, noise=None, loss=None):
    """foolbox's PGD; `noise` on [-1, 1] instead of its own start, `loss(logits, y)` (n,) instead of cross-entropy."""
    import eagerpy

    class Attack(foolbox.attacks.LinfProjectedGradientDescentAttack):
        def get_random_start(self, x0, epsilon):
            return eagerpy.astensor(x0.raw + epsilon * noise)

        def get_loss_fn(self, model, labels):
            if loss is None:
                return super().get_loss_fn(model, labels)
            return lambda inputs: eagerpy.astensor(loss(model(inputs).raw, labels.raw).sum())

    attack = Attack(abs_stepsize=float(step), steps=steps, random_start=noise is not None)
    return foolbox_run(foolbox, attack, model, x, foolbox.criteria.Misclassification(y), eps)


def hinge(kappa: float):
    """Madry's loss, one sample at a time: -relu(z_y - max of the others + kappa)."""

    def loss(logits, y):
        terms = []
        for z, label in zip(logits, y.tolist(), strict=True):
            others = torch.stack([z[k] for k in range(len(z)) if k != label])
            value = z[label] - others.max()
            terms.append(-value if kappa == float("inf") else -torch.relu(value + kappa))
        return torch.stack(terms)

    return loss


# --- PGD -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 10, 20])
def test_pgd_without_start_is_foolbox_pgd_bit_for_bit(foolbox, steps):
    model = net()
    x, y = images(model)
    ours = run("pgd-10", model, x, y, steps=steps, start="none")
    assert torch.equal(ours.result.last, foolbox_pgd(foolbox, model, x, y, steps))
    assert not torch.equal(ours.result.last, x)


def test_pgd_with_a_start_is_foolbox_pgd_from_that_start(foolbox):
    model = net()
    x, y = images(model)
    noise = unit_noise(3, x)
    ours = run("pgd-10", model, x, y, noise={"start:0": noise})
    assert torch.equal(ours.result.last, foolbox_pgd(foolbox, model, x, y, 10, noise=noise))


@pytest.mark.parametrize("trained", ["adv", "cln"])
def test_pgd_on_the_public_lenet_is_foolbox_pgd_bit_for_bit(foolbox, lenet, mnist_raw, trained):
    model = lenet(trained)
    pixels, labels = mnist_raw("t10k")
    x, y = torch.from_numpy(pixels[:N].copy()).float()[:, None] / 255, torch.from_numpy(labels[:N].astype("int64"))
    ours = run("pgd-10", model, x, y, eps=Fraction(3, 10), step=Fraction(1, 100), start="none")
    oracle = foolbox_pgd(foolbox, model, x, y, 10, eps=Fraction(3, 10), step=Fraction(1, 100))
    assert torch.equal(ours.result.last, oracle)
    assert (oracle - x).abs().amax() > 0.09


def torchattacks_start(seed: int, x: torch.Tensor, eps: Fraction = EPS) -> torch.Tensor:
    """What torchattacks.PGD draws after that seed, as noise on [-1, 1]."""
    torch.manual_seed(seed)
    return torch.empty_like(x).uniform_(-float(eps), float(eps)) / float(eps)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pgd_from_the_start_torchattacks_drew_is_torchattacks_pgd(torchattacks, seed):
    model = net()
    x, y = images(model)
    ours = run("pgd-40", model, x, y, noise={"start:0": torchattacks_start(seed, x)})
    torch.manual_seed(seed)
    theirs = torchattacks.PGD(model, eps=float(EPS), alpha=float(STEP), steps=40)(x, y)
    assert torch.equal(ours.result.last, theirs)


def test_snapshots_of_one_run_are_the_separate_runs_of_torchattacks(torchattacks):
    model = net()
    x, y = images(model)
    ours = run("pgd-40", model, x, y, noise={"start:0": torchattacks_start(5, x)}, wanted=(10, 20, 40))
    for steps in (10, 20, 40):
        torch.manual_seed(5)
        theirs = torchattacks.PGD(model, eps=float(EPS), alpha=float(STEP), steps=steps)(x, y)
        assert torch.equal(ours.result.snapshots[steps].last, theirs), steps
    assert not torch.equal(ours.result.snapshots[10].last, ours.result.snapshots[40].last)


# --- FGSM, BIM, least likely -----------------------------------------------------------------------------------------


def test_fgsm_is_torchattacks_fgsm(torchattacks):
    model = net()
    x, y = images(model)
    ours = run("fgsm", model, x, y)
    theirs = torchattacks.FGSM(model, eps=float(EPS))(x, y)
    assert (ours.result.last - theirs).abs().amax() <= 1e-7
    assert (ours.oracle.forwards, ours.oracle.backwards) == (N, N)


@pytest.mark.parametrize(("eps", "step"), [(Fraction(8, 255), Fraction(2, 255)), (Fraction(3, 10), Fraction(3, 40))])
def test_bim_is_torchattacks_bim(torchattacks, eps, step):
    model = net()
    x, y = images(model)
    ours = run("bim", model, x, y, eps=eps, step=step)
    theirs = torchattacks.BIM(model, eps=float(eps), alpha=float(step), steps=10)(x, y)
    assert (ours.result.last - theirs).abs().amax() <= 2e-7


def least_likely_of_the_others(model, x, y) -> list[int]:
    found = []
    for z, label in zip(model(x).tolist(), y.tolist(), strict=True):
        found.append(min((k for k in range(len(z)) if k != label), key=lambda k, z=z: z[k]))
    return found


def foolbox_targeted(foolbox, model, x, targets, eps, step, steps=10):
    attack = foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=float(step), steps=steps, random_start=False)
    criterion = foolbox.criteria.TargetedMisclassification(torch.tensor(targets))
    return foolbox_run(foolbox, attack, model, x, criterion, eps)


def test_iter_ll_is_foolbox_bim_towards_the_class_least_likely_on_the_clean_image(foolbox):
    model = net(factor=8.0)
    x, y = images(model)
    targets = least_likely_of_the_others(model, x, y)
    theirs = foolbox_targeted(foolbox, model, x, targets, EPS, STEP)
    assert least_likely_of_the_others(model, theirs, y) != targets  # the target of the last step would be another one
    ours = run("iter_ll10", model, x, y)
    assert (ours.result.last - theirs).abs().amax() <= 2e-7
    assert (ours.oracle.forwards, ours.oracle.backwards) == (N + 10 * N, 10 * N)


def test_iter_ll_is_scored_against_the_true_label(foolbox):
    model = net(factor=8.0)
    x, y = images(model)
    eps, step = Fraction(1, 8), Fraction(1, 32)
    targets = least_likely_of_the_others(model, x, y)
    theirs = foolbox_targeted(foolbox, model, x, targets, eps, step)
    untargeted = wrong(model, theirs, y)
    targeted = (model(theirs).argmax(dim=1) == torch.tensor(targets)).tolist()
    assert untargeted != targeted  # or the test shows nothing
    (ours,) = measure("iter_ll10", model, x, y, (10,), eps=eps, step=step)
    assert as_flags(ours.last) == untargeted


def test_iter_ll_with_two_classes_aims_at_the_other_class(foolbox):
    model = net(classes=2)
    x, y = images(model)
    least = model(x).argmin(dim=1)
    assert (least == y).any()
    ours = run("iter_ll10", model, x, y)
    theirs = foolbox_targeted(foolbox, model, x, (1 - y).tolist(), EPS, STEP)
    assert (ours.result.last - theirs).abs().amax() <= 2e-7


# --- the margin loss -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", [float("inf"), 50.0, 0.0])
def test_cw_inf_is_foolbox_pgd_on_the_margin(foolbox, kappa):
    model = net(factor=200.0)
    x, y = images(model)
    noise = unit_noise(3, x)
    ours = run("cw_inf-20", model, x, y, kappa=kappa, noise={"start:0": noise})
    theirs = foolbox_pgd(foolbox, model, x, y, 20, noise=noise, loss=hinge(kappa))
    assert torch.equal(ours.result.last, theirs)
    pure = foolbox_pgd(foolbox, model, x, y, 20, noise=noise, loss=hinge(float("inf")))
    assert torch.equal(theirs, pure) == (kappa == float("inf"))  # 50 and 0 must bite, or they are not tested


def test_cw_inf_without_a_dead_zone_stays_where_it_first_succeeded():
    model = net(factor=200.0)
    x, y = images(model)
    eps, step = Fraction(1, 16), Fraction(1, 64)
    ours = run("cw_inf-20", model, x, y, kappa=0.0, eps=eps, step=step)
    broken = torch.tensor(wrong(model, ours.result.any, y))
    assert 0 < int(broken.sum()) < N
    assert torch.equal(ours.result.any[broken], ours.result.last[broken])
    (judged,) = measure("cw_inf-20", model, x, y, (20,), kappa=0.0, eps=eps, step=step)
    assert judged.any == judged.last
    moving = run("cw_inf-20", model, x, y, eps=eps, step=step)
    assert not torch.equal(moving.result.any[broken], moving.result.last[broken])


def test_the_margin_does_not_see_a_constant_added_to_all_logits():
    stream = torch.Generator().manual_seed(0)
    z = torch.randint(-64, 64, (50, 7), generator=stream) / 8  # eighths: adding 100 is exact
    y = torch.randint(0, 7, (50,), generator=stream)
    by_hand = [
        row[label] - max(row[:label] + row[label + 1 :]) for row, label in zip(z.tolist(), y.tolist(), strict=True)
    ]
    for shift in (0.0, 100.0, -100.0):
        assert margin(z + shift, y).tolist() == by_hand


@pytest.mark.parametrize("shift", [100.0, -100.0])
def test_cw_inf_does_not_see_a_constant_added_to_all_logits(shift):
    model = net()
    x, y = images(model)
    plain = run("cw_inf-20", model, x, y)
    shifted = run("cw_inf-20", Times(model, shift=shift).eval(), x, y)
    assert torch.equal(plain.result.last, shifted.result.last)


def test_saturated_softmax_stalls_cross_entropy_and_not_the_margin():
    eps, step = Fraction(1, 10), Fraction(1, 40)
    x, y = images(net())
    model = net(factor=1e4)
    start = (x + float(eps) * unit_noise(4, x)).clamp(0, 1)
    given = {"start:0": unit_noise(4, x)}
    stalled = run("pgd-40", model, x, y, eps=eps, step=step, noise=given).result.last
    unmoved = sum(torch.equal(a, b) for a, b in zip(stalled, start, strict=True))
    assert unmoved >= N // 2
    moved = run("cw_inf-40", model, x, y, eps=eps, step=step, noise=given).result.last
    assert not any(torch.equal(a, b) for a, b in zip(moved, start, strict=True))
    assert sum(wrong(model, stalled, y)) < sum(wrong(model, moved, y))
    unsaturated = run("pgd-40", net(), x, y, eps=eps, step=step, noise=given).result.last
    assert sum(wrong(model, stalled, y)) < sum(wrong(model, unsaturated, y))


# --- one run for many numbers of steps -------------------------------------------------------------------------------

LENGTHS = (10, 20, 40, 100)


@pytest.mark.parametrize("family", ["pgd", "cw_inf"])
def test_a_shared_run_is_the_separate_runs_in_images_bits_and_cost(family):
    model = bands()
    x, y = images(model)
    eps, step = Fraction(1, 20), Fraction(1, 20)
    shared = run(f"{family}-100", model, x, y, eps=eps, step=step, wanted=LENGTHS).result
    judged = measure(f"{family}-100", model, x, y, LENGTHS, eps=eps, step=step)
    for steps, together in zip(LENGTHS, judged, strict=True):
        alone = run(f"{family}-{steps}", model, x, y, eps=eps, step=step).result
        assert torch.equal(shared.snapshots[steps].last, alone.last), steps
        assert torch.equal(shared.snapshots[steps].any, alone.any), steps
        assert measure(f"{family}-{steps}", model, x, y, (steps,), eps=eps, step=step) == [together], steps
        assert (together.forwards, together.backwards) == (N * steps, N * steps)
    assert len({one.last for one in judged}) > 1  # the snapshots differ, or the test shows nothing


def test_a_shared_run_costs_what_separate_runs_cost_with_two_restarts():
    model = net()
    x, y = images(model)
    together = measure("pgd-20", model, x, y, (10, 20), restarts=2)
    for steps, shared in zip((10, 20), together, strict=True):
        assert measure("pgd-20", model, x, y, (steps,), restarts=2) == [shared]


@pytest.mark.parametrize("restarts", [3, 5])
def test_a_shared_run_costs_what_separate_runs_cost_with_more_restarts(restarts):
    model = net()
    x, y = images(model)
    together = measure("pgd-20", model, x, y, (10, 20), restarts=restarts)
    for steps, shared in zip((10, 20), together, strict=True):
        (alone,) = measure("pgd-20", model, x, y, (steps,), restarts=restarts)
        assert (shared.forwards, shared.backwards) == (alone.forwards, alone.backwards), steps


# --- last, any and restarts ------------------------------------------------------------------------------------------


def foolbox_iterates(foolbox, model, x, y, steps, **how) -> list[torch.Tensor]:
    """Every point from the start to the last step, each from a foolbox run of that length."""
    return [foolbox_pgd(foolbox, model, x, y, done, **how) for done in range(steps + 1)]


def first_broken(model, x, y, points) -> torch.Tensor:
    """For each image the first of the points that is misclassified, the image itself where none is."""
    found = x.clone()
    for row in range(len(x)):
        for point in points:
            if model(point)[row].argmax() != y[row]:
                found[row] = point[row]
                break
    return found


def test_any_is_the_first_broken_of_all_points_that_foolbox_passes_through(foolbox):
    model = bands()
    x, y = images(model)
    eps, step, steps = Fraction(1, 16), Fraction(1, 20), 8
    noise = unit_noise(3, x)
    points = foolbox_iterates(foolbox, model, x, y, steps, eps=eps, step=step, noise=noise, loss=hinge(float("inf")))
    ours = run("cw_inf-10", model, x, y, steps=steps, eps=eps, step=step, noise={"start:0": noise}).result
    # The last point is not among them: the harness judges it.
    assert torch.equal(ours.any, first_broken(model, x, y, points[:-1]))
    ever = [any(row) for row in zip(*(wrong(model, point, y) for point in points), strict=True)]
    union = [a or b for a, b in zip(wrong(model, ours.any, y), wrong(model, ours.last, y), strict=True)]
    assert union == ever
    assert ever != wrong(model, ours.last, y)  # some image is broken on the way and not at the end


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack.prefix == "steps"])
def test_whatever_last_breaks_any_breaks(name):
    model = bands()
    x, y = images(model)
    length = min(20, ATTACKS[name].params["steps"])
    for judged in measure(name, model, x, y, (3, length), eps=Fraction(1, 16), step=Fraction(1, 20)):
        assert all(a or not last for a, last in zip(as_flags(judged.any), as_flags(judged.last), strict=True))


def test_restarts_are_the_foolbox_runs_from_their_starts(foolbox):
    model = bands()
    x, y = images(model)
    eps, step, steps = Fraction(1, 16), Fraction(1, 40), 6
    noise = {f"start:{restart}": unit_noise(20 + restart, x) for restart in range(3)}
    points = [
        foolbox_iterates(foolbox, model, x, y, steps, eps=eps, step=step, noise=given, loss=hinge(float("inf")))
        for given in noise.values()
    ]
    finals = [(iterates[-1], wrong(model, iterates[-1], y)) for iterates in points]
    expected = finals[0][0].clone()
    for row in range(N):
        expected[row] = next((final[row] for final, broken in finals if broken[row]), finals[0][0][row])
    ours = run("cw_inf-10", model, x, y, steps=steps, restarts=3, eps=eps, step=step, noise=noise)
    assert list(ours.asked) == ["start:0", "start:1", "start:2"]
    assert torch.equal(ours.result.last, expected)
    assert not torch.equal(expected, finals[0][0])  # a later restart succeeds where the first did not
    passed = [point for iterates in points for point in iterates[:-1]]
    assert torch.equal(ours.result.any, first_broken(model, x, y, passed))


@pytest.mark.parametrize("family", ["pgd", "cw_inf"])
def test_more_restarts_leave_fewer_standing_and_contain_the_first(family):
    model = bands()
    x, y = images(model)
    how = {"eps": Fraction(1, 16), "step": Fraction(1, 40)}
    found = [measure(f"{family}-10", model, x, y, (10,), restarts=r, **how)[0] for r in (1, 3, 6)]
    for fewer, more in itertools.pairwise(found):
        for bits in ("last", "any"):
            pairs = zip(as_flags(getattr(fewer, bits)), as_flags(getattr(more, bits)), strict=True)
            assert all(after or not before for before, after in pairs), bits
    assert found[0].any != found[-1].any or found[0].last != found[-1].last  # restarts matter here
    one, three = (run(f"{family}-10", model, x, y, restarts=r, **how) for r in (1, 3))
    kept = torch.tensor(wrong(model, one.result.last, y))
    assert torch.equal(one.result.last[kept], three.result.last[kept])


# --- keyed noise -----------------------------------------------------------------------------------------------------


def test_pgd_and_cw_inf_share_their_start():
    model = net()
    x, y = images(model)
    starts = {}
    for name in ("pgd-10", "pgd-40", "cw_inf-10"):
        asked = run(name, model, x, y).asked
        assert list(asked) == ["start:0"]
        starts[name] = asked["start:0"]
    assert torch.equal(starts["pgd-10"], starts["cw_inf-10"])
    assert torch.equal(starts["pgd-10"], starts["pgd-40"])


def test_the_start_is_uniform_in_the_ball_and_differs_between_examples_and_restarts():
    x = torch.zeros(64, *SHAPE)
    _, ctx = context_on(net(), x)
    noise = ctx.noise("start:0")
    values = noise.flatten().double().sort().values
    uniform = torch.linspace(-1, 1, len(values), dtype=torch.float64)
    assert (values - uniform).abs().amax() < 0.05  # Kolmogorov-Smirnov distance, in units of half the range
    assert values[0] >= -1
    assert values[-1] < 1
    assert len({tuple(row.tolist()) for row in noise.flatten(1)}) == 64
    assert not torch.equal(noise, ctx.noise("start:1"))
    assert torch.equal(noise, ctx.noise("start:0"))


@pytest.mark.parametrize("name", ["pgd-20", "cw_inf-20", "bim", "iter_ll10", "fgsm"])
def test_the_result_of_an_example_does_not_depend_on_its_place_in_the_batch(name):
    model = net()
    x, y = images(model)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(9))
    straight = run(name, model, x, y).result
    shuffled = run(name, model, x[order], y[order], examples=order.tolist()).result
    assert torch.equal(shuffled.last, straight.last[order])
    if straight.any is not None:
        assert torch.equal(shuffled.any, straight.any[order])


def test_verdicts_do_not_depend_on_the_batch_size():
    model = net(factor=8.0)
    x, y = images(model)
    how = {"eps": Fraction(1, 16), "step": Fraction(1, 40)}
    assert measure("pgd-20", model, x, y, (10, 20), batch=5, **how) == measure("pgd-20", model, x, y, (10, 20), **how)
