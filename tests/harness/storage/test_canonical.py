"""Equal values have equal bytes, and what JSON cannot hold is refused."""

import hashlib
import json
import random

import pytest

from harness.storage.canonical import canonical, digest


def test_known_bytes_and_their_sha256():
    value = {"b": [1, 2.5, True, None], "a": {"ü": "x y", "é": "\n"}}
    wanted = '{"a":{"é":"\\n","ü":"x y"},"b":[1,2.5,true,null]}'.encode()
    assert canonical(value) == wanted
    assert digest(value) == hashlib.sha256(wanted).hexdigest()


def test_sha256_of_the_empty_object_is_the_published_one():
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_order_of_insertion_never_shows():
    names = [f"k{i}" for i in range(12)]
    forms = set()
    for seed in range(20):
        random.Random(seed).shuffle(names)
        forms.add(canonical({name: {n: len(n) for n in names} for name in names}))
    assert len(forms) == 1


def test_order_of_lists_does_show():
    assert digest([1, 2]) != digest([2, 1])


@pytest.mark.parametrize("value", [0, -1, 2**80, 0.1, 1e-300, 5e-324, "\u2028\x00\ud7ff", "😀", [], {}, [[]], {"": ""}])
def test_reads_back_as_the_same_value(value):
    assert json.loads(canonical({"value": value})) == {"value": value}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_lacks_are_refused(value):
    for wrapped in (value, [value], {"a": {"b": value}}):
        with pytest.raises(ValueError, match="JSON"):
            canonical(wrapped)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(TypeError, match="serializable"):
        canonical({"a": value})


def test_no_byte_is_spent_on_space():
    assert not set(b" \n\t") & set(canonical({"a": [1, {"b": 2}], "c": None}))
