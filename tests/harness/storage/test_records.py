"""What names a result, and what is refused when a record file was touched."""

import dataclasses
import hashlib
import json
import random
from fractions import Fraction

import pytest

from harness.errors import StoreError
from harness.storage import records
from harness.types import Attack, Cell, Recipe, Subject, ThreatKind, ThreatModel
from support.records import record_of


def _nothing(*_args, **_options):
    raise AssertionError("a record never runs anything")


ATTACK = Attack(name="pgd-10", run=_nothing, threats=("linf",), revision=3)
SUBJECT = Subject(
    defense="trades[beta=6]",
    defense_params={"beta": 6, "lamb": Fraction(1, 3)},
    arch="small-cnn",
    arch_params={},
    recipe=Recipe(name="short", arch="small-cnn", epochs=1, batch=8, lr=0.1),
)
CELL = Cell(
    subject=SUBJECT,
    attack="pgd-10",
    params={"steps": 10, "step": Fraction(2, 255)},
    threat=ThreatModel(kind="linf", eps=Fraction(8, 255)),
)
PROVENANCE = records.Provenance(
    dataset="digits", data_sha256="b" * 64, split_size=360, weights_sha256="a" * 64, deployed_sha256="e" * 64,
    defense_origin="plugin_d", defense_revision=2, mandatory=("square",), arch_origin="plugin_n", arch_revision=1,
)  # fmt: skip
NOTHING: dict[str, str] = {}
RANKED = ThreatKind(name="linf", distance=lambda x, x_adv: x, verify=lambda x, x_adv, eps: x)
BITS = {"clean": "111101", "raw": "100101", "last": "011010", "any": "011010"}


def _identity(
    cell=CELL, attack=ATTACK, attack_origin="plugin_a", judge=1, start=0, stop=6, supplies=NOTHING, kind=RANKED,
    **provenance
):  # fmt: skip
    return records.cell_identity(
        cell, attack, attack_origin, dataclasses.replace(PROVENANCE, **provenance), judge, start, stop, supplies, kind
    )


def _record(**given):
    return record_of(_identity(**given), {"n": 6, **BITS, "forwards": 66, "distances": None})


def _sealed(value):
    """A record file with a right checksum over whatever is asked for, made without `seal`."""
    body = value if isinstance(value, bytes) else _compact_json(value)
    return body + b"\nsha256:" + hashlib.sha256(body).hexdigest().encode() + b"\n"


def _compact_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _keyed(head, outcome):
    return {"key": hashlib.sha256(_compact_json(head)).hexdigest(), "identity": head, "outcome": outcome}


# identity


def _subject(**changes):
    return dataclasses.replace(CELL, subject=dataclasses.replace(SUBJECT, **changes))


CHANGES = {
    "judge": {"judge": 2},
    "dataset": {"dataset": "cifar10"},
    "data_sha256": {"data_sha256": "c" * 64},
    "split_size": {"split_size": 359},
    "start": {"start": 1},
    "stop": {"stop": 7},
    "weights_sha256": {"weights_sha256": "d" * 64},
    "defense": {"cell": _subject(defense="trades")},
    "defense_params": {"cell": _subject(defense_params={"beta": 6, "lamb": Fraction(1, 4)})},
    "arch": {"cell": _subject(arch="small-cnn[width=2]")},
    "recipe": {"cell": _subject(recipe=dataclasses.replace(SUBJECT.recipe, name="long"))},
    "train_seed": {"cell": _subject(train_seed=1)},
    "attack": {"cell": dataclasses.replace(CELL, attack="pgd-10[steps=11]")},
    "params": {"cell": dataclasses.replace(CELL, params={"steps": 11, "step": Fraction(2, 255)})},
    "threat": {"cell": dataclasses.replace(CELL, threat=ThreatModel(kind="linf", eps=Fraction(31, 1000)))},
    "seed": {"cell": dataclasses.replace(CELL, seed=1)},
    "attack_revision": {"attack": dataclasses.replace(ATTACK, revision=4)},
    "minimal": {"attack": dataclasses.replace(ATTACK, minimal=True)},
    "defense_revision": {"defense_revision": 3},
    "defense_origin": {"defense_origin": "plugin_e"},
    "mandatory": {"mandatory": ("square", "apgd")},
    "deployed_sha256": {"deployed_sha256": "f" * 64},
    "arch_origin": {"arch_origin": "plugin_m"},
    "arch_revision": {"arch_revision": 2},
    "arch_params": {"cell": _subject(arch_params={"width": 2})},
    "attack_origin": {"attack_origin": "plugin_b"},
    "knowledge": {"cell": dataclasses.replace(CELL, knowledge="blackbox")},
    "on": {"cell": dataclasses.replace(CELL, on="base")},
    "passes": {"votes": 11},
    "gated": {"gated": True},
    "supplies": {"supplies": {"surrogate": "9" * 64}},
    "ranked": {"kind": dataclasses.replace(RANKED, bounded=False)},
}
CONSTANTS = {"schema": 3, "kind": "cell", "split": "test", "precision": "float32"}


def test_every_field_of_the_identity_is_covered_here():
    assert set(_identity()) == set(CHANGES) | set(CONSTANTS)
    assert {name: _identity()[name] for name in CONSTANTS} == CONSTANTS


@pytest.mark.parametrize("name", CHANGES)
def test_one_changed_input_changes_one_field_and_the_key(name):
    before, after = _record(), _record(**CHANGES[name])
    differing = {field for field in before["identity"] if before["identity"][field] != after["identity"][field]}
    assert differing == {name}
    assert before["key"] != after["key"]


@pytest.mark.parametrize("name", [name for name in [*CHANGES, *CONSTANTS] if name != "schema"])
def test_no_field_can_be_edited_under_the_same_key(name):
    value = _record()
    old = value["identity"][name]
    edited = {bool: lambda: not old, int: lambda: old - 1, str: lambda: old + "x", list: lambda: [*old, "x"]}
    value["identity"][name] = edited.get(type(old), lambda: {**old, "x": 1})()
    with pytest.raises(StoreError, match=r"here\.json: its key is not that of its identity"):
        records.unseal(_sealed(value), "here.json")


def test_the_key_is_the_sha256_of_the_identity():
    value = _record()
    assert value["key"] == hashlib.sha256(_compact_json(value["identity"])).hexdigest()


def test_nothing_that_may_differ_between_machines_is_part_of_the_identity():
    def names(value):
        if isinstance(value, dict):
            for name, inner in value.items():
                yield name
                yield from names(inner)

    found = set(names(_identity()))
    assert {"steps", "beta"} <= found, "the walk reaches the parameters"
    words = ("harness", "version", "batch", "device", "threads", "host", "time")
    assert not [name for name in found for word in words if word in name]


def test_recipe_field_tells_how_the_weights_came():
    assert _identity()["recipe"] == "short"
    assert _identity(cell=_subject(recipe=None, weights="/w/x.safetensors"))["recipe"] == "given weights"
    assert _identity(cell=_subject(recipe=None))["recipe"] == "own"


def test_fractions_and_infinities_are_written_as_text():
    head = _identity(cell=dataclasses.replace(CELL, params={"a": Fraction(1, 3), "b": float("inf"), "c": 1, "d": None}))
    assert head["params"] == {"a": "1/3", "b": "inf", "c": 1, "d": None}
    record_of(head, {})


# sealed files


def test_round_trip_and_layout():
    value = _record()
    data = records.seal(value)
    assert data == _sealed(value)
    assert records.unseal(data, "here.json") == value


def test_every_flipped_bit_is_noticed():
    data = records.seal(_record())
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StoreError, match=r"^here\.json: damaged"):
            records.unseal(bytes(changed), "here.json")


def test_every_truncation_is_noticed():
    data = records.seal(_record())
    for length in range(len(data)):
        with pytest.raises(StoreError, match=r"^here\.json: damaged"):
            records.unseal(data[:length], "here.json")


@pytest.mark.parametrize("extra", [b"\n", b" ", b"\0", b"x"])
def test_bytes_too_many_are_noticed(extra):
    data = records.seal(_record())
    for changed in (data + extra, extra + data, data + data, data.replace(b"\n", b"\r\n")):
        with pytest.raises(StoreError, match="damaged"):
            records.unseal(changed, "here.json")


def test_an_edited_key_is_refused():
    value = _record()
    value["key"] = value["key"][:-1] + ("0" if value["key"][-1] != "0" else "1")
    with pytest.raises(StoreError, match="key is not that of its identity"):
        records.unseal(_sealed(value), "here.json")


@pytest.mark.parametrize("name", BITS)
@pytest.mark.parametrize("bits", ["", "11110", "1111011", "11110x", "11110 ", 111101, None, [1, 1, 1, 1, 0, 1]])
def test_wrong_bits_are_refused(name, bits):
    value = _keyed(_identity(), {"n": 6, **BITS, name: bits})
    with pytest.raises(StoreError, match="one bit for each of its 6 images"):
        records.unseal(_sealed(value), "here.json")


def test_a_wrong_count_is_refused():
    with pytest.raises(StoreError, match="one bit for each of its 6 images"):
        records.unseal(_sealed(_keyed(_identity(), {**BITS, "n": 7})), "here.json")


# what an attack knew, what it was given, what is ranked


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("box", [True, False])
def test_only_kinds_with_a_budget_and_a_box_are_ranked(bounded, box):
    assert _identity(kind=dataclasses.replace(RANKED, bounded=bounded, box=box))["ranked"] == (bounded and box)


def test_supplies_are_told_by_name_and_each_of_them_makes_another_key():
    given = [{}, {"surrogate": "1"}, {"surrogate": "2"}, {"train_images": "1"}, {"surrogate": "1", "train_images": "1"}]
    assert [_identity(supplies=supplies)["supplies"] for supplies in given] == given
    assert len({_record(supplies=supplies)["key"] for supplies in given}) == len(given)


# distances and details


def _with(**outcome):
    return _keyed(_identity(), {"n": 6, **BITS, **outcome})


SIX = [0.0, 0.25, 1, 2.5, 1e-9, 3.0]


@pytest.mark.parametrize(
    "outcome", [{"distances": SIX}, {"details": {"stage": SIX, "steps": SIX}}, {"details": {}}, {"distances": None}]
)
def test_one_number_for_each_image_is_accepted(outcome):
    assert records.unseal(_sealed(_with(**outcome)), "here.json") == _with(**outcome)


NOT_SIX = [SIX[:5], [*SIX, 1.0], [1.0]]


@pytest.mark.parametrize("values", NOT_SIX)
@pytest.mark.parametrize("place", ["distances", "details", "second detail"])
def test_wrong_lengths_are_refused(values, place):
    outcome = {
        "distances": {"distances": values},
        "details": {"details": {"stage": values}},
        "second detail": {"details": {"right": SIX, "stage": values}},
    }[place]
    with pytest.raises(StoreError, match=r"^here\.json: does not hold one distance and one of each detail"):
        records.unseal(_sealed(_with(**outcome)), "here.json")


def test_no_numbers_at_all_are_too_few_details():
    with pytest.raises(StoreError, match="one distance"):
        records.unseal(_sealed(_with(details={"stage": []})), "here.json")


@pytest.mark.parametrize(
    "outcome",
    [
        {"distances": []}, {"distances": 5}, {"distances": "123456"}, {"distances": dict.fromkeys("123456", 1)},
        {"distances": ["x"] * 6}, {"distances": [None] * 6}, {"distances": [True] * 6}, {"details": None},
        {"details": []}, {"details": {"stage": 3}}, {"details": {"stage": "123456"}}, {"details": {"stage": [[]] * 6}},
    ],
)  # fmt: skip
def test_what_are_no_numbers_is_refused(outcome):
    with pytest.raises(StoreError, match=r"^here\.json: "):
        records.unseal(_sealed(_with(**outcome)), "here.json")


def test_a_missing_bit_string_is_named():
    value = _keyed(_identity(), {"n": 6, **{name: bits for name, bits in BITS.items() if name != "last"}})
    with pytest.raises(StoreError, match=r"not a record.*last"):
        records.unseal(_sealed(value), "here.json")


def test_an_older_schema_is_refused_by_number():
    value = _keyed({**_identity(), "schema": 1}, {"n": 6, **BITS})
    with pytest.raises(StoreError, match="schema 1 is older than this harness"):
        records.unseal(_sealed(value), "here.json")


def test_a_newer_schema_is_refused_by_number():
    value = _keyed({**_identity(), "schema": 4}, {"n": 6, **BITS})
    with pytest.raises(StoreError, match="schema 4 is newer than this harness"):
        records.unseal(_sealed(value), "here.json")


def test_the_same_record_is_accepted_when_nothing_is_wrong():
    value = _keyed(_identity(), {"n": 6, **BITS})
    assert records.unseal(_sealed(value), "here.json") == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"identity":[],"key":"","outcome":[]}',
        b'{"identity":{"schema":"1"},"key":"","outcome":{}}',
        b'{"identity":null,"key":null,"outcome":null}',
        b"[" * 100_000 + b"]" * 100_000,
        b"\xff\xfe",
        b'"\\ud800"',
        b"1" * 10_000,
    ],
)
def test_what_is_no_record_is_refused_however_well_it_is_sealed(body):
    with pytest.raises(StoreError, match=r"^here\.json: not a record"):
        records.unseal(_sealed(body), "here.json")


def test_overflowing_numbers_are_refused():
    body = _compact_json(_record()).replace(b'"forwards":66', b'"forwards":1e999')
    assert b"1e999" in body
    with pytest.raises(StoreError, match="not a record"):
        records.unseal(_sealed(body), "here.json")


@pytest.mark.parametrize("old_new", [(b'"n":6', b'"n": 6'), (b'"n":6', b'"n":6,"n":6'), (b'"n":6', b'"n":6.0e0')])
def test_other_spellings_of_the_same_record_are_refused(old_new):
    body = _compact_json(_record()).replace(*old_new)
    assert json.loads(body) == _record()
    with pytest.raises(StoreError, match="canonical"):
        records.unseal(_sealed(body), "here.json")


# compacted files


def _many(n=9):
    return [_record(start=i, stop=i + 6) for i in range(n)]


def test_compacted_records_are_sorted_whatever_came_first():
    values = _many()
    wanted = b"".join(_compact_json(value) + b"\n" for value in sorted(values, key=lambda value: value["key"]))
    assert [value["key"] for value in values] != sorted(value["key"] for value in values)
    for seed in range(10):
        random.Random(seed).shuffle(values)
        assert records.compact(iter(values)) == wanted


def test_compacted_records_read_back(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(records.compact(_many()))
    assert records.read_compacted(path) == sorted(_many(), key=lambda value: value["key"])
    path.write_bytes(b"")
    assert records.read_compacted(path) == []


@pytest.mark.parametrize("line", [1, 4, 9])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace(b'"raw":"1', b'"raw":"2'), "one bit for each"),
        (lambda text: text.replace(b'"seed":0', b'"seed":1'), "key is not"),
        (lambda text: text[:-1], "not a record"),
        (lambda text: b"", "not a record"),
        (lambda text: b" " + text, "canonical"),
    ],
)
def test_a_damaged_line_is_reported_with_file_and_number(tmp_path, line, damage, message):
    path = tmp_path / "records.jsonl"
    lines = records.compact(_many()).split(b"\n")
    assert damage(lines[line - 1]) != lines[line - 1]
    lines[line - 1] = damage(lines[line - 1])
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(StoreError) as caught:
        records.read_compacted(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert message in str(caught.value)


def test_a_missing_compacted_file_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"gone\.jsonl: no such file"):
        records.read_compacted(tmp_path / "gone.jsonl")
