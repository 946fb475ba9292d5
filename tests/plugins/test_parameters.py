"""Every parameter of every installed plugin says in a few words what it does."""

import inspect

import pytest

from harness.api import Attack
from harness.registry import discovery
from harness.types import Analysis, Architecture, Defense, OneOf

REGISTRY = discovery.discover()
SPECS = [entry.spec for kind in (Attack, Defense, Architecture, Analysis) for entry in REGISTRY.entries(kind)]


def defects(spec) -> list[str]:
    """What is wrong with `about`: a sentence that is missing, is about nothing, or reads unlike the others."""
    unlike = [
        f"{name}: {text!r}" for name, text in spec.about.items()
        if (len(text.split()) < 2 and len(text) < 8) or text[0].isupper() or text != text.strip() or text.endswith(".")
    ]  # fmt: skip
    missing = [f"{name} has no sentence" for name in spec.params if name not in spec.about]
    return missing + [f"{name} is no parameter" for name in spec.about if name not in spec.params] + unlike


def attack(**about: str) -> Attack:
    return Attack(name="planted", run=print, threats=("linf",), params={"steps": 10, "start": "none"}, about=about)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{type(spec).__name__.lower()}-{spec.name}")
def test_every_parameter_says_what_it_does(spec):
    assert set(spec.about) == set(spec.params)
    assert defects(spec) == []


def test_a_parameter_without_a_sentence_is_found():
    assert defects(attack(steps="gradient steps")) == ["start has no sentence"]


@pytest.mark.parametrize("text", ["steps", "Gradient steps", "gradient steps.", "gradient steps "])
def test_a_sentence_unlike_the_others_is_found(text):
    assert defects(attack(steps=text, start="where a run starts")) == [f"steps: {text!r}"]


def test_a_sentence_about_nothing_is_found():
    planted = attack(steps="gradient steps", start="where a run starts", step="size of one step")
    assert defects(planted) == ["step is no parameter"]


def test_a_sound_specification_passes():
    assert defects(attack(steps="iterations", start="where a run starts")) == []


def functions(spec) -> list:
    """What takes the parameters of a plugin."""
    names = ("step", "train", "load", "extend", "wrap", "run", "build")
    return [function for name in names if (function := getattr(spec, name, None)) is not None]


def left_to_chance(spec) -> list[str]:
    """Parameters that came later, are left out at their default, and have another default, or none, in a function."""
    found = []
    for name, default in spec.params.items():
        if not (isinstance(default, OneOf) and default.later):
            continue
        for function in functions(spec):
            parameters = inspect.signature(getattr(function, "resolve", lambda f=function: f)()).parameters
            passed_on = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
            if parameters[name].default != default.values[0] if name in parameters else not passed_on:
                found.append(name)
    return found


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{type(spec).__name__.lower()}-{spec.name}")
def test_a_parameter_that_came_later_has_its_default_in_the_function_too(spec):
    assert left_to_chance(spec) == []


def test_another_default_in_the_function_is_found():
    def same(model, x, y, ctx, *, passes=2):
        return x

    def other(model, x, y, ctx, *, passes=1):
        return x

    def without(model, x, y, ctx, *, passes):
        return x

    for step, found in ((same, []), (other, ["passes"]), (without, ["passes"])):
        params = {"passes": OneOf((2, 1), later=True)}
        assert left_to_chance(Defense(name="planted", step=step, params=params)) == found
