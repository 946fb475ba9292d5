"""Every parameter of every installed plugin says in a few words what it does."""

import pytest

from harness.api import Attack
from harness.registry import discovery
from harness.types import Analysis, Architecture, Defense

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
