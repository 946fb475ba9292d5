"""harness_autoattack against pyautoattack's own driver, with equal seed and batch shape, and against linear models.

`PYTHONPATH=tests python tests/plugins/test_autoattack.py` runs that driver on 200 MNIST images and writes the
fixture anew (minutes).
"""

import dataclasses
import importlib
import json
import logging
import os
import platform
import re
import sys
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.api import NotApplicable, UsageError
from harness.evaluation.call import run_attack
from harness.evaluation.measurement import Measurement
from harness.registry.names import default_value, resolve
from harness.results.audit.stages import SQUARE
from harness.types import Result, ThreatModel
from harness_autoattack import FEW_CLASS_STAGES, STAGES, harness_attacks
from support.attacks import context_on, images_at_the_border, labels_of, mnist_images
from support.measure import KINDS, measured

ATTACKS = {attack.name: attack for attack in harness_attacks()}
THEIR_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
BUDGETS = {"linf": Fraction(6, 100), "l2": Fraction(4, 10), "l1": Fraction(1)}
STEPS, QUERIES = 6, 60
FIXTURE = Path(__file__).parent / "data" / "aa_mnist_adv_200.json"


@pytest.fixture(autouse=True, scope="module")
def autoattack():
    try:
        importlib.import_module("pyautoattack")
    except ImportError:
        if os.environ.get("CI") == "true":
            pytest.fail("pyautoattack is missing, and CI must not skip what needs it: install the extra 'autoattack'")
        pytest.skip("needs pyautoattack")


class Four(nn.Module):
    """The first pixel says who answers: a smooth network, one with saturated scores, one with narrow bands of other
    classes, and one that sees rounded pixels. Each falls to another stage."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(),
                nn.Flatten(), nn.Linear(128, 10),
            )  # fmt: skip
            self.directions = nn.Parameter(2 * torch.randn(64, 9))

    def forward(self, x):
        who = (4 * x[:, 0, 0, 0]).long().clamp(0, 3).unsqueeze(1)
        smooth = 30 * self.network(x)
        phase = x.flatten(1) @ self.directions
        waves = 1 - 2 * (phase - 2 * torch.floor(phase / 2) - 1).abs()
        bands = 10 * torch.cat([torch.full_like(waves[:, :1], 0.998), waves], dim=1)
        rounded = 30 * self.network(torch.round(4 * x) / 4)
        return torch.where(who < 2, torch.where(who == 0, smooth, 100 * smooth), torch.where(who == 2, bands, rounded))


def four() -> nn.Module:
    return Four().eval().requires_grad_(False)


def images(model: nn.Module, n: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that touch 0 and 1, labelled by the model, one in eight wrongly."""
    x = images_at_the_border(n)
    x[:, 0, 0, 0] = (torch.arange(n) % 4 + 0.5) / 4
    return x, labels_of(model, x)


class Counted(nn.Module):
    """Counts images forward and backward, apart from the harness's own counting."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = self.backwards = 0

    def forward(self, x):
        self.forwards += len(x)
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self.back)
        return logits

    def back(self, gradient):
        self.backwards += len(gradient)


# --- the reference driver --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """What pyautoattack's driver did. `stages`: for each stage that ran its name, how many it broke, of how many."""

    x_adv: torch.Tensor
    robust: str
    stages: list[tuple[str, int, int]]
    forwards: int
    backwards: int

    def ours(self, n: int, confirmations: int = 1) -> tuple[int, int]:
        """What our driver asks the model for the same search. Theirs asks 7 times for all images in its checks and
        predicts on what still stands after each stage; ours predicts on the whole shard."""
        judged = sum(confirmations * n - standing for _, _, standing in self.stages)
        return self.forwards - 7 * n + judged, self.backwards


def reference(
    model, x, y, threat, *, seed=0, steps=100, queries=5000, restarts=None, version="standard", attacks=None, targets=9,
    eot=None,
) -> Reference:  # fmt: skip
    """Run the reference driver on one batch; `restarts` replaces those of apgd-ce, apgd-dlr and fab."""
    from pyautoattack import AutoAttack, checks

    counted, lines = Counted(model), []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("auto-attack")
    before, trace = (logger.level, logger.propagate, logger.handlers), sys.gettrace()
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.DEBUG)
    try:
        driver = AutoAttack(
            counted, eps=float(threat.eps), norm=THEIR_NORMS[threat.kind], seed=seed,
            version="custom" if attacks else version, attacks=attacks,
        )  # fmt: skip
        for apgd in (driver.apgd, driver.apgd_targeted):
            apgd.n_iter = apgd.n_iter_orig = steps
            apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = (
                max(int(share * steps), 1) for share in (0.22, 0.06, 0.03)
            )
        if restarts:
            driver.apgd.n_restarts = driver.fab.n_restarts = restarts
        if eot:
            driver.apgd.eot_iter = eot
        driver.apgd_targeted.n_target_classes = min(targets, driver.apgd_targeted.n_target_classes)
        driver.fab.n_target_classes = targets
        driver.fab.n_iter, driver.square.n_queries = steps, queries
        with torch.random.fork_rng():
            x_adv, _ = driver.run_standard_evaluation(x, y, batch_size=len(x))
    finally:
        logger.setLevel(before[0])
        logger.propagate, logger.handlers = before[1:]
        sys.settrace(trace)
        checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    with torch.no_grad():
        right = model(x_adv).argmax(dim=1) == y
    pattern = re.compile(r"(\S+) - \d+/\d+ - (\d+) out of (\d+) successfully")
    found = [(m[1], int(m[2]), int(m[3])) for m in map(pattern.match, lines) if m]
    return Reference(x_adv, bits(right), found, counted.forwards, counted.backwards)


def bits(flags) -> str:
    return "".join("1" if flag else "0" for flag in flags.tolist())


# --- ours ------------------------------------------------------------------------------------------------------------


def parameters(name, given):
    return resolve("attack", name, ATTACKS[name].params, given)


@dataclass(frozen=True)
class Run:
    result: Result
    forwards: int
    backwards: int
    printed: str


def run(name, model, x, y, threat, *, seed=0, **params) -> Run:
    """Call an attack the way the harness does."""
    oracle, ctx = context_on(model, x, access=ATTACKS[name].access, seed=seed)
    result, printed = run_attack(ATTACKS[name], oracle, x, y, threat, ctx, parameters(name, params))
    return Run(result, oracle.forwards, oracle.backwards, printed)


def measure(name, model, x, y, threat, **params) -> Measurement:
    """Judge an attack as in a benchmark."""
    result = measured(ATTACKS[name], model, x, y, threat, parameters(name, params))
    assert result.flags == {}
    return result


def robust(measured: Measurement) -> str:
    pairs = zip(measured.clean, measured.any, strict=True)
    return "".join("1" if clean == "1" and broken == "0" else "0" for clean, broken in pairs)


def broke(stages, name: str) -> list[int]:
    """How many images each stage broke, from the detail."""
    return [int((stages == place).sum()) for place in range(1, len(STAGES[name]) + 1)]


# --- against the reference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linf", "l2", "l1"])
def test_aa_standard_is_the_reference_driver(kind):
    model, threat = four(), ThreatModel(kind=kind, eps=BUDGETS[kind])
    x, y = images(model)
    theirs = reference(model, x, y, threat, steps=STEPS, queries=QUERIES)
    ours = run("aa_standard", model, x, y, threat, steps=STEPS, queries=QUERIES)
    assert (ours.result.last - theirs.x_adv).abs().max() <= (1e-6 if kind == "l1" else 0)
    stages = ours.result.details["stage"]
    assert bits(stages == 0) == theirs.robust
    assert broke(stages, "aa_standard") == [count for _, count, _ in theirs.stages]
    assert (ours.forwards, ours.backwards) == theirs.ours(len(x))
    assert all(count > 0 for _, count, _ in theirs.stages)  # or a stage is not tested
    assert ours.printed == ""


def test_the_seed_matters():
    model, threat = four(), ThreatModel(kind="linf", eps=BUDGETS["linf"])
    x, y = images(model)
    first, again, other = (
        run("apgd_ce", model, x, y, threat, seed=seed, steps=STEPS).result.last for seed in (0, 0, 3)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_aa_plus_is_the_reference_driver():
    model, threat = four(), ThreatModel(kind="l2", eps=BUDGETS["l2"] / 2)
    x, y = images(model)
    lengths = {"steps": 4, "targets": 3, "queries": QUERIES, "restarts": 2}
    theirs = reference(model, x, y, threat, **lengths, version="plus")
    ours = run("aa_plus", model, x, y, threat, **lengths)
    assert torch.equal(ours.result.last, theirs.x_adv)
    assert broke(ours.result.details["stage"], "aa_plus") == [count for _, count, _ in theirs.stages]
    assert [name.replace("-", "_") for name, _, _ in theirs.stages] == list(STAGES["aa_plus"])
    assert (ours.forwards, ours.backwards) == theirs.ours(len(x))


def test_aa_rand_with_one_confirmation_is_the_reference_driver():
    model, threat = four(), ThreatModel(kind="linf", eps=BUDGETS["linf"])
    x, y = images(model)
    theirs = reference(model, x, y, threat, steps=6, eot=3, version="rand")
    checks = 5 * len(x)  # theirs does not look for randomness here
    for confirmations in (1, 4):
        ours = run("aa_rand", model, x, y, threat, steps=6, eot=3, confirmations=confirmations)
        assert torch.equal(ours.result.last, theirs.x_adv)
        expected = theirs.ours(len(x), confirmations)
        assert (ours.forwards, ours.backwards) == (expected[0] + checks, expected[1])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("apgd_ce", "linf"), ("apgd_dlr", "l2"), ("apgd_t", "linf"), ("apgd_t", "l2"), ("fab", "l1"), ("fab_t", "l2"),
        ("square", "linf"), ("square", "l2"),
    ],
)  # fmt: skip
def test_components_are_those_of_the_reference(name, kind):
    model, threat = four(), ThreatModel(kind=kind, eps=BUDGETS[kind])
    x, y = images(model)
    lengths = {"steps": STEPS, "queries": QUERIES}
    theirs = reference(model, x, y, threat, seed=3, **lengths, restarts=1, attacks=[name.replace("_", "-")])
    ours = run(name, model, x, y, threat, seed=3, **{k: v for k, v in lengths.items() if k in ATTACKS[name].params})
    assert torch.equal(ours.result.last, theirs.x_adv)
    assert not torch.equal(theirs.x_adv, x)
    assert (ours.forwards, ours.backwards) == theirs.ours(len(x))


class Unbreakable(nn.Module):
    """Ten classes with gradients, of which class 0 is never in danger."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 10, generator=torch.Generator().manual_seed(0)) / 100)

    def forward(self, x):
        return x.flatten(1) @ self.weight + 5 * nn.functional.one_hot(torch.zeros(len(x), dtype=torch.long), 10)


def test_aa_standard_spends_the_published_budget():
    """100 steps, one restart, 9 targets at ten classes, 5000 queries: counted on what nobody breaks."""
    model, threat = Unbreakable().eval().requires_grad_(False), ThreatModel(kind="linf", eps=Fraction(1, 10))
    x, y = torch.full((2, 1, 8, 8), 0.5), torch.zeros(2, dtype=torch.long)
    ours = run("aa_standard", model, x, y, threat)
    assert torch.equal(ours.result.last, x)
    apgd = 1 + (1 + 100)
    apgd_t = 1 + 9 * (1 + 1 + 100)
    fab_t = 1 + 9 * (2 + 100 * 2 + 1)
    square = 1 + (1 + 5000) + 1
    assert ours.forwards == len(x) * (1 + apgd + apgd_t + fab_t + square + 4)
    assert ours.backwards == len(x) * (101 + 9 * 101 + 9 * 100)
    names = {key: default_value(value) for key, value in ATTACKS["aa_standard"].params.items()}
    assert names == {"steps": 100, "restarts": 1, "targets": 9, "queries": 5000, "restarts_l1": 5, "targets_l1": 5}


def test_classes_are_set_up_as_the_reference_sets_them_up():
    """Everything the reference driver's objects hold for `standard` and `plus`, ours hold too."""
    from pyautoattack import AutoAttack

    from harness_autoattack import stages

    for kind, eps in BUDGETS.items():
        driver = AutoAttack(four(), eps=float(eps), norm=THEIR_NORMS[kind], seed=0)
        driver.apgd.loss, driver.fab.targeted = "ce", True
        theirs = {"apgd_ce": driver.apgd, "apgd_t": driver.apgd_targeted, "fab_t": driver.fab, "square": driver.square}
        sparse = {"restarts": {"apgd_ce": 5}, "targets": {"apgd_t": 5}} if kind == "l1" else {}
        for name, expected in theirs.items():
            ours = stages.build(name, driver.model, ThreatModel(kind=kind, eps=eps), 0, 10, stages.Settings(**sparse))
            assert type(ours) is type(expected)
            free = ("logger", "device")
            held = ({k: v for k, v in vars(o).items() if k not in free} for o in (ours, expected))
            assert next(held) == next(held), name


# --- MNIST -----------------------------------------------------------------------------------------------------------


MNIST_THREAT = ThreatModel(kind="linf", eps=Fraction(3, 10))


@pytest.mark.slow
def test_aa_standard_at_full_budget_on_the_public_lenet(lenet, mnist_raw):
    expected = json.loads(FIXTURE.read_text())["first_32"]
    x, y = mnist_images(mnist_raw, 32)
    ours = measure("aa_standard", lenet("adv"), x, y, MNIST_THREAT)
    different = sum(a != b for a, b in zip(robust(ours), expected["robust"], strict=True))
    assert different <= 1
    theirs = Reference(x, expected["robust"], expected["stages"], expected["forwards"], expected["backwards"])
    if not different:
        assert (ours.forwards, ours.backwards) == pytest.approx(theirs.ours(32), rel=0.02)


# --- exact radii -----------------------------------------------------------------------------------------------------


class ExactLinear(nn.Module):
    """Classes whose exact radii follow from the weights while no pixel can leave [0, 1]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        stream = torch.Generator().manual_seed(classes)
        self.weight = nn.Parameter(torch.randn(64, classes, generator=stream, dtype=torch.float64).float())

    def forward(self, x):
        return (x.flatten(1) - 0.5) @ self.weight

    def radii(self, x, y, dual: float) -> torch.Tensor:
        """margin / dual norm, the smallest over the other classes, one image and class at a time in float64."""
        found = []
        for point, label in zip(x.double().flatten(1), y.tolist(), strict=True):
            apart = [self.weight[:, label].double() - other.double() for other in self.weight.T]
            found.append(min(
                float((point - 0.5) @ w / torch.linalg.vector_norm(w, dual))
                for k, w in enumerate(apart) if k != label
            ))  # fmt: skip
        return torch.tensor(found, dtype=torch.float64)


def half_within_reach(classes: int, kind: str):
    """A linear model, images, a budget of their median radius, and which radii are clearly inside and outside it."""
    model = ExactLinear(classes).eval().requires_grad_(False)
    x = 0.4 + 0.2 * torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(7))
    y = model(x).argmax(dim=1)
    radii = model.radii(x, y, {"linf": 1.0, "l2": 2.0, "l1": float("inf")}[kind])
    eps = Fraction(float(radii.median())).limit_denominator(10_000)
    assert float(eps) < 0.4
    inside = radii * (1.05 if kind == "l1" else 1.01) < float(eps)  # APGD needs the slack under l1
    assert 10 < int(inside.sum()) < 30
    return model, x, y, ThreatModel(kind=kind, eps=eps), inside, radii > float(eps) * 1.0001


@pytest.mark.parametrize(
    ("classes", "kind"),
    [(2, "linf"), (2, "l1"), (3, "linf"), (3, "l2"), (4, "linf"), (5, "linf"), (10, "linf"), (10, "l2"), (10, "l1")],
)
def test_linear_models_break_exactly_within_their_radius(classes, kind):
    model, x, y, threat, inside, outside = half_within_reach(classes, kind)
    name = "aa_few_class" if classes < 5 else "aa_standard"
    found = measure(name, model, x, y, threat, steps=15, queries=20)
    broken = torch.tensor([bit == "1" for bit in found.any])
    assert not broken[outside].any()
    assert broken[inside].all()


# --- few classes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "kind"), [(2, "linf"), (3, "l2"), (3, "l1"), (4, "linf"), (4, "l1")])
def test_every_stage_for_few_classes_does_its_work_alone(monkeypatch, classes, kind):
    model, x, y, threat, inside, outside = half_within_reach(classes, kind)
    for stage in FEW_CLASS_STAGES[classes]:
        monkeypatch.setitem(FEW_CLASS_STAGES, classes, (stage,))
        found = measure("aa_few_class", model, x, y, threat, steps=12, queries=300)
        broken = torch.tensor([bit == "1" for bit in found.any])
        assert not broken[outside].any()
        least = 0.1 if stage == "square" else 0.7
        assert broken[inside].double().mean() > least, stage


def test_the_number_of_classes_decides_what_applies():
    threat = ThreatModel(kind="linf", eps=Fraction(1, 10))
    short = {"steps": 3, "queries": 3}
    for classes in (2, 3, 4, 5, 6):
        model = ExactLinear(classes).eval().requires_grad_(False)
        x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        y = model(x).argmax(dim=1)
        least = {"aa_standard": 5, "aa_plus": 5, "aa_rand": 3, "apgd_dlr": 3, "apgd_t": 4}
        for name, attack in ATTACKS.items():
            params = {k: v for k, v in short.items() if k in attack.params}
            applies = classes <= 4 if name == "aa_few_class" else classes >= least.get(name, 2)
            assert applies == (attack.min_classes <= classes <= (attack.max_classes or classes)), name
            if applies:
                run(name, model, x, y, threat, **params)
            else:
                with pytest.raises(NotApplicable):
                    run(name, model, x, y, threat, **params)


# --- random numbers --------------------------------------------------------------------------------------------------


class Drawing(nn.Module):
    """Draws a random number at every forward, remembers it, and adds `scale` of it to the first logit."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale
        self.drawn: list[float] = []

    def forward(self, x):
        noise = torch.rand(())
        self.drawn.append(float(noise))
        logits = self.model(x)
        return logits + self.scale * noise * nn.functional.one_hot(torch.tensor(0), logits.shape[1])


def call(name, model, x, y, threat, **params):
    """The attack itself, without the harness's fence around the generators."""
    _, ctx = context_on(model, x)
    return ATTACKS[name].run(model, x, y, threat, ctx=ctx, **parameters(name, params))


def test_random_defenses_never_see_the_same_noise_twice():
    threat = ThreatModel(kind="linf", eps=BUDGETS["linf"])
    x, y = images(four())
    for name, params in (("aa_standard", {"steps": 3, "queries": 20}), ("aa_rand", {"steps": 5, "eot": 2})):
        model = Drawing(four(), 1.0)
        call(name, model, x, y, threat, **params)
        assert len(model.drawn) > 100
        assert len(set(model.drawn)) == len(model.drawn)
    model = Drawing(four(), 1.0)
    reference(model, x, y, threat, steps=3, queries=20)
    assert len(set(model.drawn)) < len(model.drawn)  # what the classes do by themselves


def test_what_the_model_draws_does_not_change_the_search():
    threat = ThreatModel(kind="linf", eps=BUDGETS["linf"])
    x, y = images(four())
    plain, drawing = (
        call("aa_standard", model, x, y, threat, steps=3, queries=50).last for model in (four(), Drawing(four(), 0.0))
    )
    assert torch.equal(plain, drawing)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_global_state_is_left_alone(name, capfd):
    from pyautoattack import checks

    model, attack = four(), ATTACKS[name]
    x, y = images(model)
    if name == "aa_few_class":
        model = ExactLinear(4).eval().requires_grad_(False)
        y = model(x).argmax(dim=1)
    before = torch.get_rng_state(), dict(checks.funcs), x.clone(), sys.gettrace()
    brief = {key: min(value, 3) if key == "steps" else value for key, value in attack.trial.items()}
    result = call(name, model, x, y, ThreatModel(kind="l2", eps=Fraction(1, 2)), **brief)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert checks.funcs == before[1]
    assert torch.equal(x, before[2])
    assert sys.gettrace() is before[3]
    assert not torch.equal(result.last, x)
    assert not logging.getLogger("autoattack").handlers
    assert capfd.readouterr() == ("", "")


class Lucky(nn.Module):
    """Robust everywhere, but one prediction in four is wrong by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Unbreakable()

    def forward(self, x):
        slip = (torch.rand(len(x), 1) < 0.25).float()
        return self.inner(x) + slip * 50 * nn.functional.one_hot(torch.ones(len(x), dtype=torch.long), 10)


def test_aa_rand_takes_no_lucky_misclassification_for_a_break():
    x, y = torch.full((40, 1, 8, 8), 0.5), torch.zeros(40, dtype=torch.long)
    threat = ThreatModel(kind="linf", eps=Fraction(1, 10))
    once, often = (
        run("aa_rand", Lucky().requires_grad_(False), x, y, threat, steps=10, eot=2, confirmations=confirmations)
        for confirmations in (1, 100)
    )
    assert (once.result.details["stage"] > 0).sum() > 5
    assert (often.result.details["stage"] > 0).sum() == 0
    assert torch.equal(often.result.last, x)


# --- what is claimed -------------------------------------------------------------------------------------------------


class Planted:
    """A stage that returns what it was told to, whatever that is."""

    def __init__(self, shift: float, scale: float = 1.0) -> None:
        self.shift, self.scale = shift, scale

    def perturb(self, x, y):
        return x * self.scale + self.shift


@pytest.mark.parametrize("kind", ["linf", "l2", "l1"])
def test_images_outside_the_budget_are_not_claimed(monkeypatch, kind):
    from harness_autoattack import stages

    model, eps = ExactLinear(10).eval().requires_grad_(False), {"linf": 0.1, "l2": 0.8, "l1": 6.4}[kind]
    x = 0.4 + 0.2 * torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(7))
    y = model(x).argmax(dim=1)
    threat = ThreatModel(kind=kind, eps=Fraction(eps).limit_denominator(1000))
    broken = {}
    for shift in (0.0999, 0.1001, float("nan")):
        monkeypatch.setattr(stages, "build", lambda *_, shift=shift: Planted(shift))
        found = run("apgd_ce" if kind != "l1" else "aa_standard", model, x, y, threat)
        broken[shift] = int((found.result.details["stage"] > 0).sum())
        wrong = model(found.result.last).argmax(dim=1) != y
        assert torch.equal(wrong, (found.result.last != x).flatten(1).any(dim=1))
        assert KINDS[kind].verify(x, found.result.last, eps).all()
    assert broken[0.0999] > 0
    assert broken[0.1001] == 0


def test_what_a_stage_lets_leave_the_range_is_clamped_before_it_is_judged(monkeypatch):
    from harness_autoattack import stages

    model = ExactLinear(10).eval().requires_grad_(False)
    x = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(7)).round() * 0.5
    y = model(x).argmax(dim=1)
    monkeypatch.setattr(stages, "build", lambda *_: Planted(-0.0999))
    found = measure("apgd_ce", model, x, y, ThreatModel(kind="linf", eps=Fraction(1, 10)))
    assert found.any.count("1") == int((model((x - 0.0999).clamp(0, 1)).argmax(dim=1) != y).sum()) > 0


def test_clean_mistakes_come_back_clean_and_are_marked():
    model, threat = four(), ThreatModel(kind="linf", eps=BUDGETS["linf"])
    x, y = images(model)
    for name, params in (("aa_standard", {"steps": 3, "queries": 20}), ("square", {"queries": 20})):
        result = run(name, model, x, y, threat, **params).result
        wrong = model(x).argmax(dim=1) != y
        stages = result.details["stage"]
        assert torch.equal(stages == -1, wrong)
        assert torch.equal(result.last[stages <= 0], x[stages <= 0])
        assert (model(result.last).argmax(dim=1) != y)[stages > 0].all()


@pytest.mark.parametrize("kind", ["linf", "l1"])
def test_the_judge_denies_no_claim(kind):
    model, threat = four(), ThreatModel(kind=kind, eps=BUDGETS[kind])
    x, y = images(model)
    found = measure("aa_standard", model, x, y, threat, steps=STEPS, queries=QUERIES)
    assert 0 < found.any.count("1") < len(x)
    claimed = [stage > 0 for stage in found.details["stage"]]
    assert claimed == [c == "1" and bit == "1" for c, bit in zip(found.clean, found.any, strict=True)]


class Tie(nn.Module):
    """Certain of class 0 on grey images; otherwise both logits are 0. It cannot reshape an empty batch."""

    def forward(self, x):
        grey = (x.view(len(x), -1) == 0.5).all(dim=1)
        return torch.stack([grey.float(), torch.zeros(len(x))], dim=1)


def test_square_survives_a_batch_whose_margins_are_all_zero():
    from pyautoattack.square import SquareAttack

    x, y = torch.full((3, 1, 8, 8), 0.5), torch.zeros(3, dtype=torch.long)
    with torch.random.fork_rng(), pytest.raises(RuntimeError, match="0 elements"):
        SquareAttack(Tie(), eps=0.1, n_queries=5, device="cpu").perturb(x, y)
    found = measure("square", Tie(), x, y, ThreatModel(kind="linf", eps=Fraction(1, 10)))
    assert found.any == "000"  # class 0 comes first among equals


class Constant(nn.Module):
    """Answers its own parameter for every image, without a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.tensor([[1.0, 0.0, 0.5]]))

    def forward(self, x):
        return self.answer.expand(len(x), -1)


@pytest.mark.parametrize("n", [1, 3])
def test_square_does_not_write_into_the_models_own_tensors(n):
    x, y = torch.full((n, 1, 8, 8), 0.5), torch.zeros(n, dtype=torch.long)
    found = measure("square", Constant(), x, y, ThreatModel(kind="linf", eps=Fraction(1, 10)), queries=5)
    assert found.any == "0" * n


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "pyautoattack"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    monkeypatch.delitem(sys.modules, "harness_autoattack.stages", raising=False)
    monkeypatch.delattr("harness_autoattack.stages", raising=False)
    x, y = images(four())
    with pytest.raises(UsageError, match=re.escape("pip install 'adversarial-harness[autoattack]'")):
        run("aa_standard", four(), x, y, ThreatModel(kind="linf", eps=Fraction(1, 10)))


@pytest.mark.parametrize(
    ("name", "kind", "params"),
    [
        ("aa_standard", "linf", {"steps": 0}),
        ("aa_standard", "l1", {"steps": 2}),
        ("aa_standard", "linf", {"queries": 0}),
        ("aa_standard", "linf", {"targets": 0}),
        ("aa_standard", "linf", {"restarts": 0}),
        ("square", "linf", {"restarts": 0}),
        ("aa_rand", "linf", {"eot": 0}),
        ("aa_rand", "linf", {"confirmations": 0}),
    ],
)
def test_lengths_that_mean_nothing_are_refused(name, kind, params):
    x, y = images(four())
    with pytest.raises(UsageError, match="at least"):
        run(name, four(), x, y, ThreatModel(kind=kind, eps=Fraction(1, 10)), **params)


def test_square_refuses_images_too_small_for_its_tiles():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).requires_grad_(False)
    x, y = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(2, dtype=torch.long)
    with pytest.raises(NotApplicable, match="5 pixels"):
        run("square", model, x, y, ThreatModel(kind="l2", eps=Fraction(1, 2)))
    run("square", model, x, y, ThreatModel(kind="linf", eps=Fraction(1, 2)), queries=5)


def test_groups_and_threats():
    groups = {name: set(attack.groups) for name, attack in ATTACKS.items()}
    assert groups["aa_standard"] == {"all", "standard", "linf", "paper:tpap", "paper:ancra"}
    assert groups["aa_few_class"] == {"all", "standard", "linf"}
    assert groups["square"] == {"all", "blackbox", "linf"}
    assert groups["aa_plus"] == groups["aa_rand"] == set()
    assert all(groups[name] == {"linf"} for name in ("apgd_ce", "apgd_dlr", "apgd_t", "fab", "fab_t"))
    assert all(attack.batch_coupled and attack.threats[0] == "linf" for attack in ATTACKS.values())
    assert ATTACKS["square"].access == "score"
    assert dataclasses.asdict(ATTACKS["aa_standard"])["aliases"] == ("autoattack",)


# --- the fixture -----------------------------------------------------------------------------------------------------


def write_fixture(folder: Path, n: int = 200) -> None:
    """Run the reference driver at full budget: seeds 0, 1 and 2 on the first images of t10k, and 0 on the first 32."""
    from conftest import RENAMED
    from harness_vision.networks import lenet_advertorch

    found = torch.load(folder / "models/mnist_lenet5_advtrained.pt", map_location="cpu", weights_only=True)
    model = lenet_advertorch((1, 28, 28), 10)
    model.load_state_dict({f"{RENAMED[k.split('.')[0]]}.{k.split('.')[1]}": tensor for k, tensor in found.items()})
    model.eval().requires_grad_(False)
    raw = folder / "data/MNIST/raw"
    x = torch.tensor(list((raw / "t10k-images-idx3-ubyte").read_bytes()[16 : 16 + n * 784])).view(n, 1, 28, 28) / 255
    y = torch.tensor(list((raw / "t10k-labels-idx1-ubyte").read_bytes()[8 : 8 + n]))

    def told(images: int, seed: int) -> dict:
        theirs = reference(model, x[:images], y[:images], MNIST_THREAT, seed=seed)
        return {key: value for key, value in vars(theirs).items() if key != "x_adv"}

    FIXTURE.write_text(json.dumps({
        "what": "pyautoattack's own driver, version standard, linf 0.3, on the adversarially trained public LeNet; "
        "the first test images of MNIST in one batch; robust: 1 where it is right on the clean and the final image",
        "made_by": "OMP_NUM_THREADS=2 python tests/plugins/test_autoattack.py",
        "versions": {name: version(name) for name in ("pyautoattack", "torch")} | {"python": platform.python_version()},
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "first_32": told(32, 0),
        "seeds": {seed: told(n, seed) for seed in (0, 1, 2)},
    }, indent=1) + "\n")  # fmt: skip


if __name__ == "__main__":
    write_fixture(Path(__file__).parents[3] / "shared")


def test_the_audit_knows_where_square_stands_in_every_ensemble():
    places = {name: {0: stages.index("square") + 1} for name, stages in STAGES.items() if "square" in stages}
    few = {classes: stages.index("square") + 1 for classes, stages in FEW_CLASS_STAGES.items()}
    assert {**places, "aa_few_class": few} == SQUARE
    assert all(stages.count("square") <= 1 for stages in [*STAGES.values(), *FEW_CLASS_STAGES.values()])
