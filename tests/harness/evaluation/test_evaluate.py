"""The judge believes nothing: every cheat is caught, by name, and an honest attack never is."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from harness.conformance import toys
from harness.errors import HarnessError
from harness.evaluation.judge import InvalidModel, Judge
from harness.evaluation.measurement import Measurement, Refused
from harness.types import Attack, Result, ThreatKind, ThreatModel
from support.measure import REGISTRY, cell_of, evaluated, measure
from support.plugins import CHEATS, FAILURES


@pytest.mark.parametrize("cheat", CHEATS)
def test_every_cheat_is_refused_by_name(cheat):
    result, _ = measure(cheat)
    assert isinstance(result, Refused)
    assert any(CHEATS[cheat] in reason for reason in result.reasons), result.reasons


@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_is_an_error_and_not_a_number(failure):
    with pytest.raises((HarnessError, ValueError, SystemExit)):
        measure(failure)


def test_a_false_claim_is_counted_and_changes_no_verdict():
    claimed, _ = measure("claims_success")
    honest, _ = measure(Attack(name="still", run=lambda model, x, y, threat: x, threats=("linf",)))
    assert isinstance(claimed, Measurement)
    assert claimed.last == honest.last
    # Wrong images really are broken by the shifted point; every right one is a false claim.
    assert claimed.flags == {"false_claims": claimed.any.count("0")}
    assert claimed.flags["false_claims"] > 0


def test_an_honest_attack_is_measured_as_a_plain_loop_would():
    x, y = toys.images(n=32)
    model = toys.tiny_net()
    result, _ = measure("one_step", model, x, y)
    x_adv = []
    for i in range(32):
        image = x[i : i + 1].clone().requires_grad_(True)
        torch.nn.functional.cross_entropy(model(image), y[i : i + 1]).backward()
        x_adv.append((image.detach() + 0.05 * image.grad.sign()).clamp(0, 1))
    clean = [int(model(x[i : i + 1]).argmax() == y[i]) for i in range(32)]
    right = [int(model(x_adv[i]).argmax() == y[i]) for i in range(32)]
    assert result.clean == "".join(map(str, clean))
    assert result.raw == "".join(map(str, right))
    assert result.last == result.any == "".join(str(1 - bit) for bit in right)
    assert (result.forwards, result.backwards) == (32, 32)


@pytest.mark.parametrize("batch", [1, 7, 32])
def test_verdicts_and_counts_do_not_depend_on_the_batch(batch):
    whole, _ = measure("one_step")
    split, _ = measure("one_step", batch=batch)
    assert split == whole


@pytest.mark.parametrize(
    ("factor", "accepted"), [(0.9, True), (1.1, False)], ids=["inside the tolerance", "outside the tolerance"]
)
@pytest.mark.parametrize(
    ("kind", "eps", "tolerance"), [("linf", 0.05, 1e-7), ("l2", 0.5, 1e-5 * 0.5 + 1e-6), ("l1", 2.0, 1e-5 * 2.0 + 1e-6)]
)
def test_the_budget_is_checked_in_float64_at_its_tolerance(kind, eps, tolerance, factor, accepted):
    x = torch.full((1, 1, 8, 8), 0.0)
    x_adv = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    x_adv[0, 0, 0, 0] = eps + factor * tolerance
    spec = REGISTRY.get(ThreatKind, kind).spec
    assert spec.verify(x, x_adv, eps, None).tolist() == [accepted]


def test_exact_float32_steps_are_never_refused():
    """One rounding of x +- eps stays inside, for every 8-bit pixel and every common eps."""
    x = (torch.arange(256, dtype=torch.float32) / 255).repeat(2).view(1, 1, 2, 256)
    for eps in (8 / 255, 12 / 255, 0.3, 0.2, 0.031, 1 / 3):
        moved = torch.cat([(x[:, :, :1] + eps), (x[:, :, 1:] - eps)], dim=2).clamp(0, 1)
        assert REGISTRY.get(ThreatKind, "linf").spec.verify(x, moved, eps, None).all()


def test_nan_never_passes_a_budget():
    x = torch.zeros(1, 1, 8, 8)
    for kind in ("linf", "l2", "l1", "none", "unbounded"):
        assert not REGISTRY.get(ThreatKind, kind).spec.verify(x, torch.full_like(x, float("nan")), 1.0, None).any()


def test_l0_counts_changed_values_exactly():
    x = torch.zeros(1, 1, 8, 8)
    moved = x.clone()
    moved[0, 0, 0, :5] = 0.5
    verify = REGISTRY.get(ThreatKind, "l0").spec.verify
    assert verify(x, moved, 5.0, None).all()
    assert not verify(x, moved, 4.0, None).any()


def test_a_minimal_attack_may_leave_the_budget_and_does_not_win_there():
    def far(model, x, y, threat):
        return (x + 0.2).clamp(0, 1)

    result, _ = measure(Attack(name="far", run=far, threats=("linf",), minimal=True))
    assert isinstance(result, Measurement)
    assert "1" not in result.last
    x, _ = toys.images(n=32)
    assert result.distances == pytest.approx(
        [float(((image + 0.2).clamp(0, 1) - image).max()) for image in x], abs=1e-6
    )


class Constant(torch.nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: torch.full((len(x), 4), float("nan")), "nonfinite-logits"),
        (lambda x: torch.full((len(x), 4), float("inf")), "nonfinite-logits"),
        (lambda x: torch.zeros(len(x), 3), "4 classes"),
        (lambda x: torch.zeros(len(x), 4, dtype=torch.long), "not float32"),
        (lambda x: (torch.zeros(len(x), 4),), "tuple"),
    ],
)
def test_a_model_that_answers_nonsense_gives_no_number(answer, message):
    with pytest.raises(InvalidModel, match=message):
        measure("unchanged", Constant(answer), kind="none", eps=None)


def test_a_random_model_is_recognised():
    noisy = Constant(lambda x: toys.tiny_net()(x) + 0.1 * torch.rand(len(x), 4))
    assert Judge(noisy, 4, toys.SHAPE).stochastic
    assert not Judge(toys.tiny_net(), 4, toys.SHAPE).stochastic


def test_an_attack_on_global_generators_repeats_whatever_ran_before():
    first, _ = measure("random_signs")
    torch.manual_seed(99)
    torch.rand(10)
    state = torch.get_rng_state()
    second, _ = measure("random_signs")
    assert first == second
    assert torch.equal(torch.get_rng_state(), state), "the process's generator moved"


def test_the_process_is_as_it_was_after_an_attack_changes_global_state(tmp_path):
    import os

    def careless(model, x, y, threat):
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        os.chdir(tmp_path)
        print("chatter")
        return x

    before = Path.cwd()
    result, printed = measure(Attack(name="careless", run=careless, threats=("linf",)))
    assert isinstance(result, Measurement)
    assert printed == "chatter\n"
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    assert Path.cwd() == before


def test_a_prefix_attack_without_its_snapshot_is_an_error():
    attack = Attack(
        name="short", run=lambda model, x, y, threat, steps: Result(last=x), threats=("linf",), prefix="steps",
        params={"steps": 5},
    )  # fmt: skip
    x, y = toys.images()
    threat = ThreatModel(kind="linf", eps=Fraction(1, 20))
    cells = [cell_of(attack, threat, {"steps": s}) for s in (2, 5)]
    with pytest.raises(HarnessError, match="no snapshot for 2"):
        evaluated(Judge(toys.tiny_net(), 4, toys.SHAPE), toys.shard(x, y), attack, cells)


def test_refusals_of_one_shard_name_how_many_images():
    def some(model, x, y, threat):
        moved = x.clone()
        moved[:3] = 0
        moved[3] = float("nan")
        return moved

    result, _ = measure(Attack(name="some", run=some, threats=("linf",)))
    assert isinstance(result, Refused)
    assert result.reasons == {"outside linf:1/20": 3, "not finite": 1}
    assert "of 32 images" in str(result)


def test_an_attack_that_needs_no_ctx_may_leave_it_out_and_others_get_it():
    seen = []

    def with_ctx(model, x, y, threat, *, ctx):
        seen.append(ctx.noise("start:0").shape)
        return x

    measure(Attack(name="with_ctx", run=with_ctx, threats=("linf",)))
    assert seen == [torch.Size([32, 1, 8, 8])]


def test_the_verdict_comes_from_a_model_the_attack_never_held():
    """Even a change that escapes every fingerprint cannot reach the verdict: the attack holds a copy."""
    spec = replace(REGISTRY.get(Attack, "modifies_weights").spec)
    model = toys.tiny_net()
    before = [p.clone() for p in model.parameters()]
    measure(spec, model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
