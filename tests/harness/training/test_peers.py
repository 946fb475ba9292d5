"""What a training uses of others: attacks under a budget of its choice, networks trained with an eps of its choice."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from harness.api import TRAINING_EPS, Attack, Defense, ThreatKind, hookimpl
from harness.conformance import toys
from harness.errors import PluginError, UsageError
from harness.planning.subjects import neighbour
from support.plugins import Offers, one_step, plain_step, toy_registry
from support.training import subject_and_data, trainer


def push(model, x, y, threat, *, share):
    return (x + float(share) * float(threat.eps)).clamp(0, 1)


def dimmed_step(model, x, y, ctx, *, strength):
    return plain_step(model, x, y, ctx) * (1 + float(Fraction(strength)))


class Others:
    """An attack of two threat kinds with a parameter, and a defense with a parameter left to the training's eps."""

    def __init__(self, revision=1):
        self.revision = revision

    @hookimpl
    def harness_attacks(self):
        yield Attack(
            name="push", run=push, threats=("linf", "l2"), params={"share": 1.0}, access="decision",
            revision=self.revision,
        )  # fmt: skip

    @hookimpl
    def harness_defenses(self):
        yield Defense(name="dimmed", step=dimmed_step, params={"strength": TRAINING_EPS})
        yield Defense(name="user", step=plain_step, uses=("one_step", "robust"))


REGISTRY = toy_registry(Others())


def peers(registry=REGISTRY, seed=0, **changes):
    subject, data = subject_and_data(registry)
    return trainer(registry, data).peers(replace(subject, train_seed=seed), "train", lambda: toys.toy_part(), **changes)


def moved(attack, n=16):
    """How far each pixel is moved from the clean images at most, and by how much most of them are."""
    x, y = toys.images(n=n)
    distances = (attack(toys.tiny_net(), x, y, list(range(n))) - x).abs()
    return float(distances.max()), float(distances.median())


@pytest.mark.parametrize(("threat", "eps"), [("linf:8/255", 8 / 255), ("linf:1/100", 1 / 100), (None, 1 / 20)], ids=str)
def test_an_attack_has_the_budget_that_it_was_asked_for_or_the_datasets(threat, eps):
    attack = peers().attack("one_step", threat)
    assert str(attack.threat) == (threat or "linf:1/20")
    assert attack.identity["threat"] == (threat or "linf:1/20")
    assert moved(attack) == (pytest.approx(eps, rel=1e-5), pytest.approx(eps, rel=1e-5))


def test_its_images_are_those_of_the_attack():
    x, y = toys.images()
    model = toys.tiny_net()
    attack = peers().attack("one_step", "linf:8/255")
    found = attack(model, x, y, list(range(len(x))))
    assert torch.equal(found, one_step(model, x.clone(), y, attack.threat))
    assert not found.requires_grad


def test_a_budget_of_another_kind_than_the_first():
    assert str(peers().attack("push").threat) == "linf:1/20"
    assert moved(peers().attack("push", "l2:1/4")) == (pytest.approx(1 / 4, rel=1e-5), pytest.approx(1 / 4, rel=1e-5))


def test_a_threat_kind_that_the_attack_does_not_support_is_refused():
    with pytest.raises(UsageError, match=r"'one_step' does not work under l2; it does under linf$"):
        peers().attack("one_step", "l2:1/2")
    with pytest.raises(UsageError, match=r"'push' does not work under none; it does under linf, l2$"):
        peers().attack("push", "none")


def identity(name="push", threat=None, **changes):
    return dict(peers(**changes).attack(name, threat).identity)


@pytest.mark.parametrize(
    ("entries", "other"),
    [
        ("attack params", {"name": "push[share=0.5]"}),
        ("threat", {"threat": "linf:8/255"}),
        ("threat", {"threat": "l2:1/20"}),
        ("seed", {"seed": 1}),
        ("revision", {"registry": toy_registry(Others(revision=2))}),
    ],
    ids=["params", "eps", "kind", "seed", "revision"],
)
def test_what_decides_an_attacks_images_is_in_its_identity(entries, other):
    first, second = identity(), identity(**other)
    assert first == identity(), "the same attack is the same"
    assert first == identity(threat="linf:1/20"), "however its budget was said"
    assert {name for name in first if first[name] != second[name]} == set(entries.split())
    assert json.loads(json.dumps(first)) == first, "fit to key a cache by"


def test_the_origin_is_in_the_identity():
    assert identity("one_step")["origin"] != identity("push")["origin"]
    assert identity("one_step")["attack"] != identity("push")["attack"]


def test_what_is_not_declared_is_handed_to_analyses_only():
    subject, data = subject_and_data(REGISTRY, "user")
    training = trainer(REGISTRY, data).peers(subject, "train")
    assert training.attack("one_step", "linf:8/255").threat.eps == Fraction(8, 255)
    for ask in (lambda of: of.attack("push"), lambda of: of.network("plain", 0.1)):
        with pytest.raises(PluginError, match="not declared"):
            ask(training)
    assert isinstance(peers().attack("push").identity, dict)


def test_budgets_are_those_of_the_dataset():
    assert peers().budget("linf") == Fraction(1, 20)
    assert peers().budget("l2") == Fraction(1, 2)
    with pytest.raises(PluginError, match="'toy' has no l1 budget"):
        peers().budget("l1")


def test_a_kind_may_share_another_kinds_budget():
    sharing = ThreatKind(name="shared", distance=push, verify=push, budget_of="l2")
    assert peers(toy_registry(Others(), Offers(sharing))).budget("shared") == Fraction(1, 2)


@pytest.mark.parametrize(("name", "said"), [("one_*", "is 2 attacks"), ("all", "is . attacks")])
def test_what_is_not_one_attack_is_refused_by_name(name, said):
    many = toy_registry(Others(), Offers(Attack(name="one_more", run=push, threats=("linf",), params={"share": 1.0})))
    with pytest.raises(PluginError, match=f"'{name.replace('*', '.')}' {said}: name one"):
        peers(many).attack(name)


# networks


def cards(folder):
    return {card.parent: json.loads(card.read_bytes()) for card in folder.rglob("card.json")}


def weights_of(network):
    return torch.cat([tensor.flatten().double() for tensor in network.state_dict().values()])


@pytest.mark.parametrize(("stated", "scaled"), [(None, Fraction(1, 10)), (Fraction(1, 60), Fraction(1, 30))], ids=str)
def test_another_network_can_be_trained_with_another_eps(tmp_path, stated, scaled):
    subject, data = subject_and_data(REGISTRY)
    inner = replace(subject.recipe.inner, step=stated)
    subject = replace(subject, recipe=replace(subject.recipe, inner=inner))
    made = trainer(REGISTRY, data, tmp_path)
    usual = made.beside(subject, "robust")
    (usual_home,) = cards(tmp_path)
    wide = made.beside(subject, "robust", 0.1)
    (wide_home,) = cards(tmp_path).keys() - {usual_home}
    before, after = cards(tmp_path)[usual_home], cards(tmp_path)[wide_home]
    assert (before["eps"], after["eps"]) == ("1/20", "1/10")
    share = data.spec.step
    assert before["step"] == str(stated or Fraction(1, 20) * share)
    assert after["step"] == str(scaled if stated else Fraction(1, 10) * share), "the step keeps its share of eps"
    assert before["train_seed"] == after["train_seed"] == subject.train_seed + 1
    assert not torch.equal(weights_of(usual), weights_of(wide)), "it was trained with it"
    assert torch.equal(weights_of(made.beside(subject, "robust", 0.1)), weights_of(wide))
    assert len(cards(tmp_path)) == 2, "and is reused"


def test_peers_hand_such_a_network_out_frozen(tmp_path):
    subject, data = subject_and_data(REGISTRY, "user")
    made = trainer(REGISTRY, data, tmp_path)
    network = made.peers(subject, "train").network("robust", 0.1)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(weights_of(network), weights_of(made.beside(subject, "robust", 0.1)))
    assert [card["eps"] for card in cards(tmp_path).values()] == ["1/10"]


@pytest.mark.parametrize(("eps", "strength"), [(None, Fraction(1, 20)), (0.1, Fraction(1, 10))], ids=str)
def test_a_parameter_left_to_the_eps_of_the_training_gets_a_number(tmp_path, eps, strength):
    subject, data = subject_and_data(REGISTRY)
    found = neighbour(subject, "dimmed", data.spec, REGISTRY, eps)
    assert found.defense_params == {"strength": strength}
    trainer(REGISTRY, data, tmp_path).beside(subject, "dimmed", eps)
    (card,) = cards(tmp_path).values()
    assert card["defense_params"] == {"strength": str(strength)}
    assert card["eps"] == str(strength)
    given = neighbour(subject, "dimmed[strength=0.25]", data.spec, REGISTRY, eps)
    assert [float(value) for value in given.defense_params.values()] == [0.25]
