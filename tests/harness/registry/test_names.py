"""Names with parameters, as users type them: split, read, written, resolved."""

import math
import random
from fractions import Fraction

import pytest

from harness.errors import UsageError
from harness.registry.names import (
    default_value,
    format_name,
    format_value,
    overrides,
    parse_name,
    plain,
    plain_name,
    resolve,
    split_names,
    unlabelled,
)
from harness.types import FROM_DATASET, OneOf


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        ([], []),
        ([""], []),
        ([" , ,, "], []),
        (["pgd-10,fgsm"], ["pgd-10", "fgsm"]),
        (["pgd-10", "fgsm"], ["pgd-10", "fgsm"]),
        (["pgd-10 fgsm", "clean"], ["pgd-10", "fgsm", "clean"]),
        (["a,\n\tb"], ["a", "b"]),
        (["fgsm,pgd-10,fgsm", "pgd-10"], ["fgsm", "pgd-10"]),
        (["a[x=1,y=2],b"], ["a[x=1,y=2]", "b"]),
        (["a[x=1, y=2] b"], ["a[x=1, y=2]", "b"]),
        (["b,a[x=1],c[y=2,z=3],a[x=1]"], ["b", "a[x=1]", "c[y=2,z=3]"]),
        (["a[x=1],a[x=2],a"], ["a[x=1]", "a[x=2]", "a"]),
        (["pgd-*,plugin/name[x=8/255]"], ["pgd-*", "plugin/name[x=8/255]"]),
        (["a[x=1,b"], ["a[x=1,b"]),
        (["a[x=1,b", "c"], ["a[x=1,b", "c"]),
        (["a]b,c"], ["a]b", "c"]),
        (["net.build (good),b", "c (x-1) d"], ["net.build (good)", "b", "c (x-1)", "d"]),
        (["a (b", "a, (b)"], ["a", "(b", "(b)"]),
    ],
)
def test_split(texts, names):
    assert split_names(texts) == names


def split_by_hand(text):
    names, depth, word = [], 0, ""
    for sign in text:
        depth = {"[": 1, "]": 0}.get(sign, depth)
        if depth == 0 and sign in ", ":
            names.append(word)
            word = ""
        else:
            word += sign
    return list(dict.fromkeys(name for name in [*names, word] if name))


def test_split_equals_a_walk_over_the_signs():
    source = random.Random(2)
    for _ in range(2000):
        text = "".join(source.choice("ab=,, []") for _ in range(source.randint(0, 14)))
        assert split_names([text]) == split_by_hand(text), text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mine", "mine"), ("My net, v2", "My-net-v2"), ("epoch=3-step=20", "epoch-3-step-20"), ("a..b", "a.b"),
        ("../up (x)", "up-x"), (" , ", ""),
    ],
)  # fmt: skip
def test_any_text_becomes_a_name_that_is_read_as_one(text, name):
    assert plain_name(text) == name
    assert split_names([name]) == [name] * bool(name)
    assert parse_name(f"net.build ({name})") == (f"net.build ({name})", {})
    assert unlabelled(f"net.build ({name})") == "net.build"


VALUES = [
    ("1", 1),
    ("-3", -3),
    ("007", 7),
    ("8/255", Fraction(8, 255)),
    ("0.5", Fraction(1, 2)),
    ("-0.25", Fraction(-1, 4)),
    ("1e-3", Fraction(1, 1000)),
    ("0.1", Fraction(1, 10)),
    ("inf", math.inf),
    ("-inf", -math.inf),
    ("true", True),
    ("True", True),
    ("FALSE", False),
    ("none", None),
    ("None", None),
    ("mean", "mean"),
    ("1/0", "1/0"),
    ("nan", "nan"),
    ("a/b.c-d", "a/b.c-d"),
    ("two words", "two words"),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_kinds_of_values(text, value):
    for written in (f"a[x={text}]", f"a[ x = {text} ]", f"a[y=0,x={text}]", f"a[x={text},y=0]"):
        name, found = parse_name(written)
        assert name == "a"
        assert found["x"] == value
        assert type(found["x"]) is type(value)
        assert found.get("y", 0) == 0


def test_a_bare_name_has_no_parameters():
    assert parse_name("pgd-10") == ("pgd-10", {})
    assert parse_name("plugin/pgd-10[steps=3,step=2/255]") == (
        "plugin/pgd-10",
        {"steps": 3, "step": Fraction(2, 255)},
    )


@pytest.mark.parametrize(
    "text",
    [
        "a[",
        "a[]",
        "a[x]",
        "a[x=]",
        "a[=1]",
        "a[x=1",
        "a[x=1]]",
        "a[[x=1]",
        "a[x=[1]]",
        "a[x=1]b",
        "a[x=1][y=2]",
        "a[x=1,]",
        "a[,x=1]",
        "a[x=1,,y=2]",
        "a[x=1=2]",
        "a[x==1]",
        "a[1x=1]",
        "a[x-y=1]",
        "a[x y=1]",
        "[x=1]",
        "[",
        "[]",
    ],
)
def test_malformed_brackets_are_refused_with_an_example(text):
    with pytest.raises(UsageError, match="cannot be read: write name") as caught:
        parse_name(text)
    assert f"'{text}'" in str(caught.value)
    assert "aalp[version=1]" in str(caught.value)


def test_what_is_written_is_read_back():
    source = random.Random(3)
    pool = [True, False, None, 0, -1, 10**12, Fraction(8, 255), Fraction(-1, 3), math.inf, -math.inf, "mean", "a/b"]
    for _ in range(500):
        given = {source.choice("abcdefgh") * source.randint(1, 3): source.choice(pool) for _ in range(4)}
        text = format_name("plugin/n-1", given)
        name, found = parse_name(text)
        assert (name, found) == ("plugin/n-1", given)
        assert {key: type(value) for key, value in found.items()} == {key: type(given[key]) for key in given}
        assert split_names([f"x,{text} y"]) == ["x", text, "y"]


def test_parameters_are_written_sorted_and_only_where_there_are_any():
    assert format_name("a", {}) == "a"
    assert format_name("a", {"z": 1, "b": Fraction(1, 2), "m": None}) == "a[b=1/2,m=none,z=1]"
    assert [format_value(value) for value in (True, False, None, 0.5, "x")] == ["true", "false", "none", "0.5", "x"]


def test_floats_are_written_so_that_the_same_number_is_read():
    for value in (0.1, 1e-5, 1e22, -2.5, 0.1 + 0.2, 5e-324):
        _, found = parse_name(f"a[x={format_value(value)}]")
        assert float(found["x"]) == value


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (Fraction(8, 255), "8/255"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (0.5, 0.5),
        (3, 3),
        (True, True),
        (None, None),
        ("x", "x"),
    ],
)
def test_plain_values_are_what_json_takes(value, wanted):
    assert plain(value) == wanted
    assert type(plain(value)) is type(wanted)


# resolve

DEFAULTS = {
    "steps": 10,
    "alpha": 1.5,
    "eps": Fraction(8, 255),
    "gd": True,
    "version": OneOf((2, 1)),
    "reduction": OneOf(("mean", "sum")),
    "step": FROM_DATASET,
    "note": "text",
    "cap": None,
}
RESOLVED = {**DEFAULTS, "version": 2, "reduction": "mean"}


def test_defaults_are_filled_in():
    assert resolve("attack", "a", DEFAULTS, {}) == RESOLVED
    assert resolve("attack", "a", DEFAULTS, {"steps": 3, "version": 1}) == {**RESOLVED, "steps": 3, "version": 1}
    assert resolve("attack", "a", {}, {}) == {}
    assert default_value(OneOf(("x", "y"))) == "x"
    assert default_value(7) == 7


def test_an_unknown_parameter_names_the_offered_ones():
    with pytest.raises(UsageError) as caught:
        resolve("attack", "pgd-10", DEFAULTS, {"stpes": 3})
    message = str(caught.value)
    assert message.startswith("attack 'pgd-10' has no parameter 'stpes'. Its parameters: ")
    for offered in ("steps=10", "alpha=1.5", "eps=8/255", "gd=true", "version=2", "step=dataset", "cap=none"):
        assert offered in message
    with pytest.raises(UsageError, match="Its parameters: none"):
        resolve("defense", "natural", {}, {"x": 1})


@pytest.mark.parametrize(("name", "value"), [("version", 3), ("version", "1"), ("reduction", "max"), ("version", None)])
def test_a_value_that_is_not_offered_is_refused_with_the_choices(name, value):
    choices = {"version": "2, 1", "reduction": "mean, sum"}[name]
    with pytest.raises(UsageError, match=rf"defense 'aalp': {name}={format_value(value)} must be one of {choices}"):
        resolve("defense", "aalp", DEFAULTS, {name: value})


KINDS = {
    "steps": {"int"},
    "alpha": {"int", "float", "fraction"},
    "eps": {"int", "fraction"},
    "step": {"int", "fraction"},
    "gd": {"bool"},
    "note": {"int", "float", "fraction", "text", "none"},
    "cap": {"int", "float", "fraction", "text", "none"},
}
SAMPLES = {"int": 3, "float": math.inf, "fraction": Fraction(1, 4), "bool": False, "text": "x", "none": None}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", SAMPLES)
def test_a_value_of_another_kind_is_refused(name, kind):
    value = SAMPLES[kind]
    if kind in KINDS[name]:
        assert resolve("attack", "a", DEFAULTS, {name: value}) == {**RESOLVED, name: value}
    else:
        wanted = f"attack 'a': {name}={format_value(value)} must be "
        with pytest.raises(UsageError) as caught:
            resolve("attack", "a", DEFAULTS, {name: value})
        assert str(caught.value).startswith(wanted)


def test_resolving_leaves_its_inputs_alone():
    defaults, given = dict(DEFAULTS), {"steps": 3}
    resolve("attack", "a", defaults, given)
    assert (defaults, given) == (DEFAULTS, {"steps": 3})


def test_overrides_are_what_differs_from_the_defaults():
    assert overrides(DEFAULTS, RESOLVED) == {}
    changed = resolve("attack", "a", DEFAULTS, {"steps": 10, "version": 1, "gd": False})
    assert overrides(DEFAULTS, changed) == {"version": 1, "gd": False}
    assert format_name("a", overrides(DEFAULTS, changed)) == "a[gd=false,version=1]"


def identified(text, defaults):
    """The id of what is typed, and the parameters that its records are named by."""
    name, given = parse_name(text)
    resolved = resolve("defense", name, defaults, given)
    shown = {key: (type(plain(value)), plain(value)) for key, value in resolved.items()}
    return format_name(name, overrides(defaults, resolved)), shown


@pytest.mark.parametrize(
    ("text", "defaults"),
    [
        pytest.param("a[beta=0.6]", {"beta": 0.6}),
        pytest.param("a[weight=1]", {"weight": 1.0}),
        pytest.param("a[weight=1.0]", {"weight": 1.0}),
        ("a[eps=8/255]", {"eps": Fraction(8, 255)}),
        ("a[version=2]", {"version": OneOf((2, 1))}),
        pytest.param("a[version=2.0]", {"version": OneOf((2, 1))}),
    ],
)
def test_typing_a_default_is_the_same_as_typing_nothing(text, defaults):
    assert identified(text, defaults) == identified("a", defaults)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a[w=1/2]", "a[w=0.5]"),
        ("a[w=2/4]", "a[w=1/2]"),
        pytest.param("a[w=2]", "a[w=2.0]"),
        pytest.param("a[w=4/2]", "a[w=2]"),
        pytest.param("a[w=1e0]", "a[w=1]"),
    ],
)
@pytest.mark.parametrize("default", [7.5, Fraction(1, 3), FROM_DATASET])
def test_equal_numbers_are_one_however_they_are_typed(one, other, default):
    assert identified(one, {"w": default}) == identified(other, {"w": default})


@pytest.mark.parametrize("value", [True, False])
def test_yes_and_no_are_no_numbers(value):
    with pytest.raises(UsageError, match="must be one of"):
        resolve("defense", "aalp", {"version": OneOf((0, 1))}, {"version": value})


def test_a_parameter_that_came_later_is_left_out_at_its_default_and_nowhere_else():
    before = {"mix": 0.0, "mode": OneOf(("eval", "train"))}
    after = {**before, "statistics": OneOf(("adv", "both"), later=True)}
    for given in ({}, {"mix": Fraction(1, 2)}, {"statistics": "adv"}):
        known = {key: value for key, value in given.items() if key in before}
        assert resolve("defense", "at", after, given) == resolve("defense", "at", before, known)
    found = resolve("defense", "at", after, {"statistics": "both"})
    assert found == {"mix": 0.0, "mode": "eval", "statistics": "both"}
    assert format_name("at", overrides(after, found)) == "at[statistics=both]"
    with pytest.raises(UsageError, match="must be one of adv, both"):
        resolve("defense", "at", after, {"statistics": "clean"})


def test_a_choice_called_none_can_be_chosen():
    for choices in (("uniform", "none"), ("none", "uniform")):
        for word in ("none", "uniform"):
            name, given = parse_name(f"pgd[start={word}]")
            assert resolve("attack", name, {"start": OneOf(choices)}, given) == {"start": word}
    assert resolve("attack", "a", {"start": OneOf((1, None))}, parse_name("a[start=none]")[1]) == {"start": None}
