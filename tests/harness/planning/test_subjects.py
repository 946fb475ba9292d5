"""Which recipe a defense is trained with, named or not, and the eps that its parameters take from it."""

from dataclasses import replace
from fractions import Fraction

import pytest

from harness.api import hookimpl
from harness.errors import UsageError
from harness.planning.request import Request
from harness.planning.subjects import find_recipe, find_subjects, neighbour
from harness.registry.registry import Registry
from harness.types import TRAINING_EPS, Dataset, Defense, InnerAttack
from support.plugins import toy_registry
from support.training import toy_recipe


def named(name: str, **changes):
    return toy_recipe(name=name, **changes)


def dataset(*recipes, eps=Fraction(1, 5)) -> Dataset:
    return Dataset(name="toy", load=lambda: None, classes=2, shape=None, budgets={"linf": eps}, recipes=recipes)


def names(*found):
    return [recipe.name if recipe else None for recipe in found]


def test_the_default_is_the_defenses_own_first_recipe_then_the_datasets_and_never_that_of_another_paper():
    toy = dataset(named("ours"), named("theirs"))
    own = Defense(name="own", recipes={"toy": (named("own"), named("own-wide"))})
    listed = Defense(name="listed", more_recipes={"toy": (named("tables"),)})
    elsewhere = Defense(name="elsewhere", recipes={"other": (named("own"),)})
    assert names(*(find_recipe("", defense, toy) for defense in (own, listed, elsewhere))) == ["own", "ours", "ours"]
    assert find_recipe("", listed, dataset()) is None


def test_a_name_finds_only_what_the_defense_or_the_dataset_has():
    toy = dataset(named("ours"), named("theirs"))
    defense = Defense(
        name="made",
        recipes={"toy": (named("own"),), "other": (named("far"),)},
        more_recipes={"toy": (named("tables"),)},
    )
    for name in ("own", "tables", "ours", "theirs"):
        assert find_recipe(name, defense, toy).name == name
    for name in ("far", "paper", "OWN"):
        with pytest.raises(
            UsageError, match=f"no recipe '{name}' for made on toy; there are: own, tables, ours, theirs"
        ):
            find_recipe(name, defense, toy)
    with pytest.raises(UsageError, match="no recipe 'tables' for bare on toy; there are: ours, theirs"):
        find_recipe("tables", Defense(name="bare"), toy)


class Purifies:
    """Leaves one parameter of training and one of deployment to the eps of training."""

    @hookimpl
    def harness_defenses(self):
        yield Defense(
            name="purifies", step=lambda *_: None, params={"strength": TRAINING_EPS, "noise": TRAINING_EPS},
            deployment=("strength",),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("inner", "deployed", "noise", "strength"),
    [
        (None, None, Fraction(1, 5), Fraction(1, 5)),
        (Fraction(12, 255), None, Fraction(12, 255), Fraction(12, 255)),
        (Fraction(12, 255), Fraction(8, 255), Fraction(12, 255), Fraction(8, 255)),
        (None, Fraction(8, 255), Fraction(1, 5), Fraction(8, 255)),
    ],
)
def test_what_is_deployed_takes_the_eps_that_the_recipe_deploys_with(inner, deployed, noise, strength):
    registry: Registry = toy_registry(Purifies())
    toy = dataset(named("ours", inner=InnerAttack(steps=1, eps=inner), deploy_eps=deployed, arch="tiny"))
    (subject,) = find_subjects("purifies", toy, Request(defenses=["purifies"]), registry)
    assert dict(subject.defense_params) == {"noise": noise, "strength": strength}
    (given,) = find_subjects("purifies[strength=1/2]", toy, Request(defenses=["purifies"]), registry)
    assert given.defense_params["strength"] == Fraction(1, 2)
    beside = neighbour(replace(subject, defense="plain"), "purifies", toy, registry)
    assert dict(beside.defense_params) == {"noise": noise, "strength": strength}
