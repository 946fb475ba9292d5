"""harness_torchattacks: what is offered keeps every contract; why the rest is not offered is measured anew."""

import inspect
import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import nn

from harness.api import NotApplicable, UsageError
from harness.conformance import attacks, check_attack, toys
from harness.conformance.report import run_checks
from harness.conformance.trial import Trial
from harness.evaluation.isolation import isolated
from harness.evaluation.judge import Judge
from harness.evaluation.measurement import Refused
from harness.evaluation.oracle import fingerprint
from harness.registry.names import default_value, resolve
from harness.types import Attack, ThreatModel
from harness_torchattacks import harness_attacks
from harness_torchattacks.adapter import Fenced
from harness_torchattacks.catalogue import EXCLUDED, KEPT
from support.attacks import Times, conv_net
from support.measure import judged

ATTACKS = {attack.name.removeprefix("torchattacks/"): attack for attack in harness_attacks()}
OFFERED = [name for name, attack in ATTACKS.items() if not attack.defect]
DEFECTIVE = [name for name, attack in ATTACKS.items() if attack.defect]
SLOW = ("apgdt", "fab", "square", "onepixel", "pixle")
MARKED = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in OFFERED]
KNOWN_TO_A_RUN = {"eps", "max_epsilon", "norm", "n_classes", "seed", "pixels"}

pytestmark = pytest.mark.usefixtures("torchattacks")


@pytest.fixture(scope="module")
def pyautoattack():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("pyautoattack")


def class_name(attack: Attack) -> str:
    return attack.run.args[0]


def attacked(name: str, model: nn.Module, x, y, threat: ThreatModel, *, seed: int = 0, **given):
    """What an attack returns with these parameters, the others at their defaults."""
    attack = ATTACKS[name]
    params = resolve("attack", attack.name, attack.params, given)
    numbers = {key: float(value) if isinstance(value, Fraction) else value for key, value in params.items()}
    with isolated("test", seed):
        warnings.simplefilter("ignore")
        return attack.run(model, x, y, threat, ctx=None, **numbers)


def linf(eps: float) -> ThreatModel:
    return ThreatModel(kind="linf", eps=Fraction(eps))


def l2(eps: float) -> ThreatModel:
    return ThreatModel(kind="l2", eps=Fraction(eps))


def broken(model: nn.Module, x_adv, y) -> int:
    return int((model(x_adv).argmax(dim=1) != y).sum())


def pictures(model: nn.Module, n: int, shape: tuple[int, int, int], look: Callable = lambda x: x, seed: int = 0):
    x = look(torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed)))
    return x, model(x).argmax(dim=1)


def margins(model: nn.Module, x, y) -> torch.Tensor:
    logits = model(x).detach()
    return logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -math.inf).amax(dim=1)


class Blinks(nn.Module):
    """A model whose gradient is exactly zero in its first calls."""

    def __init__(self, model: nn.Module, calls: int) -> None:
        super().__init__()
        self.model, self.calls = model, calls

    def forward(self, x):
        self.calls -= 1
        return self.model(x.detach() if self.calls >= 0 else x) + 0 * x.sum()


class Flat(nn.Module):
    """Class 0 everywhere, with a gradient that is exactly zero."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.eye(classes)[:1], requires_grad=False)

    def forward(self, x):
        return self.logits + 0 * x.flatten(1).sum(dim=1, keepdim=True)


# What is listed


def test_every_class_has_a_row_or_a_reason(torchattacks):
    rows = [class_name(attack) for attack in ATTACKS.values()]
    assert sorted([*rows, *EXCLUDED]) == sorted(torchattacks.__all__)
    assert list(ATTACKS) == [name.lower() for name in rows]


@pytest.mark.parametrize("name", ATTACKS)
def test_parameters_and_defaults_are_those_of_the_class(name, torchattacks):
    attack = ATTACKS[name]
    own = {
        "step" if key == "alpha" else key: parameter.default
        for key, parameter in inspect.signature(getattr(torchattacks, class_name(attack))).parameters.items()
        if key not in {"model", *KNOWN_TO_A_RUN, *KEPT}
    }
    ours = {key: default_value(default) for key, default in attack.params.items()}
    assert set(ours) == set(own)
    for key, default in own.items():
        assert ours[key] == (pytest.approx(default) if isinstance(default, float) else default), key


def test_describing_imports_no_torch():
    code = (
        "import sys, harness_torchattacks; assert len(list(harness_torchattacks.harness_attacks())) == 36;"
        "assert not {'torch', 'numpy', 'torchattacks'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    x, y = toys.images(2)
    with pytest.raises(UsageError, match=r"pip install 'adversarial-harness\[torchattacks\]'"):
        attacked("fgsm", toys.tiny_net(), x, y, linf(0.1))


# What is offered


@pytest.mark.parametrize("name", MARKED)
def test_offered_attacks_keep_every_contract(name):
    results = check_attack(ATTACKS[name])
    assert [f"{result.name}: {result.detail}" for result in results if result.state == "failed"] == []
    assert sum(result.state == "passed" for result in results) >= 4


LOOKS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "black": torch.zeros_like,
    "white": torch.ones_like,
    "black and white": torch.round,
    "levels": lambda x: (x * 255).round() / 255,
}
MODELS = ((Flat(), (1, 8, 8)), (conv_net((3, 8, 8), 10), (3, 8, 8)), (conv_net((1, 8, 8), 4), (1, 8, 8)))


@pytest.mark.parametrize("name", MARKED)
def test_offered_attacks_stand_images_at_the_edge_and_flat_models(name):
    """Nothing is refused, printed or left behind: the judge looks at modes, gradients and weights too."""
    trial = Trial.of(ATTACKS[name])
    for model, shape in MODELS:
        classes = model(torch.zeros(1, *shape)).shape[1]
        judge = Judge(model, classes, shape)
        for look in LOOKS.values():
            x, y = pictures(model, 4, shape, look)
            for threat in trial.threats():
                params, kind = trial.params(threat), trial.kinds[threat.kind]
                seen = judged(ATTACKS[name], judge, x, y, threat, params, kind=kind, sha256=toys.TOY_SHA256)
                assert not isinstance(seen, Refused), seen
                assert seen.flags == {}


@pytest.mark.parametrize("name", [name for name in OFFERED if name not in ("fgsm", "bim", "apgdt", "fab")])
def test_draws_follow_the_seed(name):
    """Left out: two that draw nothing, and two whose draws show only on images that stand after a first try."""
    threat = Trial.of(ATTACKS[name]).threats()[0]
    x, y = toys.images()
    first, same, other = (
        attacked(name, toys.tiny_net(), x, y, threat, seed=seed, **ATTACKS[name].trial) for seed in (0, 0, 1)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("name", "threat", "given", "expected"),
    [
        ("pgd", linf(0.25), {"step": Fraction(1, 16)}, {"eps": 0.25, "alpha": 0.0625}),
        ("apgd", linf(0.25), {"steps": 7}, {"eps": 0.25, "norm": "Linf", "steps": 7}),
        ("apgd", l2(2), {}, {"eps": 2.0, "norm": "L2"}),
        ("apgdt", linf(0.25), {}, {"eps": 0.25, "n_target_classes": 3}),
        ("fab", l2(2), {"multi_targeted": True}, {"eps": 2.0, "norm": "L2", "n_target_classes": 3}),
        ("square", l2(2), {"n_queries": 9}, {"eps": 2.0, "norm": "L2", "n_queries": 9}),
        ("onepixel", ThreatModel(kind="l0", eps=Fraction(5)), {}, {"pixels": 5}),
    ],
)
def test_the_class_is_told_what_the_run_knows(name, threat, given, expected, torchattacks, monkeypatch):
    seen = []

    class Spy(getattr(torchattacks, class_name(ATTACKS[name]))):
        def forward(self, images, labels=None):
            seen.append(vars(self))
            return images

    monkeypatch.setattr(torchattacks, class_name(ATTACKS[name]), Spy)
    x, y = toys.images()
    for seed in (0, 0, 1):
        attacked(name, toys.tiny_net(), x, y, threat, seed=seed, **given)
    first, same, other = seen
    assert {key: first[key] for key in expected} == expected
    assert first["device"] == x.device
    if "seed" in first:
        assert type(first["seed"]) is int
        assert first["seed"] == same["seed"] != other["seed"]


def test_modes_and_gradients_of_the_model_are_out_of_reach(torchattacks, capsys):
    """torchattacks switches to eval and back to train, and fills gradients; parameter-free models make it print."""
    model = toys.tiny_net().train()
    model.layer1.eval()
    before = fingerprint(model)
    fenced = Fenced(model, torch.device("cpu"))
    attack = torchattacks.PGD(fenced)
    fenced.train()
    attack.set_model_training_mode(model_training=True)
    x, y = toys.images()
    attack.get_logits(x)
    attack._change_model_mode(True)
    attack._recover_model_mode(True)
    assert fingerprint(model)["train mode"] == before["train mode"]
    attacked("spsa", Fenced(nn.Flatten(), torch.device("cpu")), x, y, linf(0.1), nb_sample=2, max_batch_size=2)
    assert capsys.readouterr() == ("", "")


def test_logits_that_the_model_keeps_are_not_written_to():
    class Keeps(nn.Module):
        def forward(self, x):
            return logits[: len(x)]

    logits = torch.eye(4).repeat(4, 1)
    x, _ = toys.images()
    attacked("square", Keeps(), x, logits.argmax(dim=1), linf(0.1), n_queries=2)
    assert torch.equal(logits, torch.eye(4).repeat(4, 1))


def test_what_does_not_fit_is_not_applicable():
    x, y = torch.rand(2, 1, 8, 12), torch.zeros(2, dtype=torch.long)
    for name, threat in (("square", linf(0.1)), ("pixle", ThreatModel(kind="unbounded"))):
        with pytest.raises(NotApplicable, match="square images only"):
            attacked(name, conv_net((1, 8, 12), 4), x, y, threat)
    with pytest.raises(NotApplicable, match="5 pixels"):
        attacked("square", conv_net((1, 4, 4), 4), torch.rand(2, 1, 4, 4), y, l2(1))
    x, y = toys.images(2, classes=2)
    for name, given, least in (("apgdt", {}, 4), ("jitter", {}, 3), ("apgd", {"loss": "dlr"}, 3)):
        with pytest.raises(NotApplicable, match=f"{least} classes"):
            attacked(name, toys.tiny_net(2), x, y, linf(0.1), **given)


@pytest.mark.parametrize(("eps", "pixels"), [(2, 0), (7, 2)])
def test_a_pixel_costs_one_value_for_each_channel(eps, pixels):
    model = conv_net((3, 8, 8), 4)
    x, y = pictures(model, 4, (3, 8, 8))
    changed = attacked("onepixel", model, x, y, ThreatModel(kind="l0", eps=Fraction(eps)), steps=2) != x
    assert int(changed.any(dim=1).flatten(1).sum(dim=1).max()) == pixels
    assert int(changed.flatten(1).sum(dim=1).max()) <= eps


def test_one_pixel_breaks_nothing_that_brute_force_cannot():
    """On a linear model the best single value is the one with the largest gain, pushed to 0 or 1."""
    model, x, y, _ = toys.linear_problem("l2", n=16)
    weight = (model[1].weight[1] - model[1].weight[0]).detach().view(1, 8, 8)
    way = torch.where(y == 1, -1.0, 1.0).view(-1, 1, 1, 1)
    shares = torch.linspace(0.3, 1.2, len(x)).view(-1, 1, 1, 1)
    x = x + way * (1 - shares) * margins(model, x, y).view(-1, 1, 1, 1) * weight / weight.square().sum()
    gain = torch.where(way * weight > 0, 1 - x, x) * weight.abs()
    possible = gain.flatten(1).amax(dim=1) > margins(model, x, y)
    found = attacked("onepixel", model, x, y, ThreatModel(kind="l0", eps=Fraction(1)), steps=30, popsize=40)
    won = margins(model, found, y) < 0
    assert 4 <= int(possible.sum()) <= 12, "the problem must have both kinds"
    assert not (won & ~possible).any()
    assert int(won.sum()) >= 0.7 * int(possible.sum())


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", ["apgd", "apgdt", "fab", "square"])
def test_autoattacks_stages_are_those_of_the_reference(name, norm, pyautoattack):
    """With its seed and length, pyautoattack's class gives the same images."""
    from pyautoattack import autopgd_base, fab_pt, square

    model = Fenced(Times(conv_net((1, 8, 8), 6), 8.0), torch.device("cpu"))
    x, y = pictures(model, 32, (1, 8, 8))
    eps = 0.2 if norm == "Linf" else 1.3
    with isolated("test", 0):
        seed = int(torch.randint(2**31, ()))
    common = {"norm": norm, "eps": eps, "seed": seed, "device": "cpu"}
    reference, given = {
        "apgd": (autopgd_base.APGDAttack(model, n_iter=20, n_restarts=2, **common), {"steps": 20, "n_restarts": 2}),
        "apgdt": (autopgd_base.APGDAttack_targeted(model, n_iter=10, n_target_classes=5, **common), {}),
        "fab": (fab_pt.FABAttack_PT(model, n_iter=10, n_restarts=2, **common), {"n_restarts": 2}),
        "square": (square.SquareAttack(model, n_queries=200, resc_schedule=True, **common), {"n_queries": 200}),
    }[name]
    threat = ThreatModel(kind=norm.lower(), eps=Fraction(eps))
    ours, theirs = attacked(name, model, x, y, threat, **given), reference.perturb(x, y).detach()
    assert broken(model, theirs, y) >= 4
    difference = float((ours - theirs).abs().max())
    if (name, norm) == ("apgdt", "L2"):
        assert "l2" not in ATTACKS[name].threats, "it is not offered there:"
        assert difference > 1e-2, "the first image's step size serves the whole batch"
    else:
        assert difference <= 1e-6


# What is not offered, and why


def frozen(name: str) -> str:
    """The first gradient is zero: of each of the first step's copies, where there are several."""
    model, x, y, radius = toys.linear_problem("linf")
    threat = ThreatModel(kind="linf", eps=2 * radius)
    won = {}
    for asked in ("bim", name):
        plant = Blinks(model, calls=ATTACKS[name].params.get("m", 1))
        won[asked] = broken(model, attacked(asked, plant, x, y, threat, step=radius / 2), y)
    return f"breaks {won[name]} of 16 images of a linear model whose first gradient is zero, BIM {won['bim']}"


def contract(named: str) -> Callable[[str], str]:
    def failure(name: str) -> str:
        (result,) = run_checks(Trial.of(ATTACKS[name]), {named: attacks.CONTRACTS[named]})
        assert result.state == "failed"
        return result.detail.partition(":")[0]

    return failure


def crash(classes: int, label: int) -> Callable[[str], str]:
    def failure(name: str) -> str:
        x, _ = toys.images(4)
        with pytest.raises((RuntimeError, IndexError)) as caught:
            attacked(name, toys.tiny_net(classes), x, torch.full((4,), label), linf(0.1))
        return f"raises {'an' if caught.typename[0] in 'AEIOU' else 'a'} {caught.typename}"

    return failure


def averaged(margin: float) -> Callable[[str], str]:
    """A linear model with this margin, at 1.5 times the exact radius: in one batch and one by one."""

    def failure(name: str) -> str:
        model, x, y, radius = toys.linear_problem("l2", n=100)
        model = Times(model, margin / float(margins(model, x, y).mean()))
        given = {"step": radius / 4, **({"noise_sd": 0.01} if name == "pgdrsl2" else {})}
        threat = ThreatModel(kind="l2", eps=radius * 3 / 2)
        together = attacked(name, model, x, y, threat, **given)
        alone = [attacked(name, model, x[i : i + 1], y[i : i + 1], threat, **given) for i in range(100)]
        in_batch, singly = broken(model, together, y), broken(model, torch.cat(alone), y)
        return f"margin is {margin:g}, it breaks {in_batch} of 100 images in one batch and {singly} one by one"

    return failure


def stalled(name: str) -> str:
    """Most values are 0 already, where the step would go on: each step closes a tenth of what is left."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([-torch.ones(64), torch.ones(64)]))
        model[1].bias.copy_(torch.tensor([3.6, -3.6]))
    order = torch.rand(16, 64, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    x, y = torch.where(order < 6, 0.8, 0.0).view(16, 1, 8, 8), torch.ones(16, dtype=torch.long)
    assert broken(model, (x - 0.21).clamp_min(0), y) == 16
    assert broken(model, x, y) == 0
    won = broken(model, attacked(name, model, x, y, l2(1)), y)
    return f"breaks {won} of 16 images whose values are mostly 0"


def not_finite(name: str) -> str:
    x, _ = toys.images()
    found = attacked(name, Flat(), x, torch.zeros(16, dtype=torch.long), l2(1), steps=1)
    bad = int((~torch.isfinite(found)).flatten(1).any(dim=1).sum())
    return f"returns NaN for {bad} of 16 images of a model without a gradient"


def outside(name: str) -> str:
    x, y = pictures(toys.tiny_net(), 16, (1, 8, 8), torch.round)
    found = attacked(name, toys.tiny_net(), x, y, l2(1))
    bad = int(((found < 0) | (found > 1)).flatten(1).any(dim=1).sum())
    return f"{bad} of 16 black and white images come back outside [0, 1]"


def masked_with_zero(name: str) -> str:
    x, y = pictures(toys.tiny_net(), 16, (1, 8, 8), lambda x: 0.05 + 0.9 * x.round())
    won = [
        broken(toys.tiny_net(), attacked(name, toys.Shifted(toys.tiny_net(), shift), x, y, l2(1), c=100, steps=200), y)
        for shift in (0.0, -100.0)
    ]
    still = attacked(name, toys.tiny_net(), x.round(), y, l2(1), c=100, steps=200)
    assert torch.equal(still, x.round()), "values of exactly 0 and 1 never move"
    return f"with c=100 it breaks {won[0]} of 16 images, and {won[1]} once 100 is subtracted from all logits"


def ten_steps(name: str) -> str:
    import torchattacks

    stages = torchattacks.AutoAttack(Fenced(toys.tiny_net(), torch.device("cpu")))._autoattack.attacks
    (steps,) = {stage.steps for stage in stages[:3]}
    return f"takes {steps} steps of APGD, APGDT and FAB"


MEASURED: dict[str, Callable[[str], str]] = {
    **dict.fromkeys(("mifgsm", "nifgsm", "sinifgsm", "vmifgsm", "vnifgsm", "upgd", "difgsm"), frozen),
    **dict.fromkeys(("tifgsm", "pifgsm", "pifgsmpp"), crash(4, 0)),
    "tpgd": contract("wins outside the exact radius"),
    "pgdl2": averaged(25),
    "pgdrsl2": averaged(30),
    "cw": masked_with_zero,
    "deepfool": stalled,
    "sparsefool": not_finite,
    "jsma": crash(4, 3),
    "eadl1": outside,
    "eaden": outside,
    "autoattack": ten_steps,
}


def test_every_defect_is_measured():
    assert sorted(MEASURED) == sorted(DEFECTIVE)


@pytest.mark.parametrize("name", MEASURED)
def test_the_defect_is_as_stated(name):
    assert MEASURED[name](name) in ATTACKS[name].defect


@pytest.mark.slow
def test_cw_and_deepfool_leave_what_fab_breaks_on_a_trained_network(lenet, mnist_raw):
    model = lenet("cln")
    pixels, labels = mnist_raw("t10k")
    x = torch.tensor(pixels[:16] / 255, dtype=torch.float32).unsqueeze(1)
    y = torch.tensor(labels[:16], dtype=torch.long)
    assert broken(model, x, y) == 0
    won = {name: broken(model, attacked(name, model, x, y, l2(4)), y) for name in ("fab", "cw", "deepfool")}
    assert won["fab"] == 16
    assert won["cw"] <= 2
    assert won["deepfool"] <= 8
