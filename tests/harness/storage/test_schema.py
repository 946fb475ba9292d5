"""The schema says what records hold: its page, the committed records, and bytes from before it was typed."""

import json
from fractions import Fraction

import pytest

from conftest import ROOT
from harness.storage import schema
from harness.storage.canonical import canonical
from harness.storage.page import page
from harness.storage.records import (
    Provenance,
    analysis_identity,
    analysis_record,
    cell_identity,
    cell_record,
    read_compacted,
    seal,
)
from harness.types import Analysis, Attack, Cell, Recipe, Subject, ThreatKind, ThreatModel

GOLDEN = (ROOT / "tests" / "golden" / "records.jsonl").read_bytes().splitlines()
"""One record of each kind, as written before records were typed."""
BOARDS = sorted(path for path in (ROOT / "leaderboards").glob("*/records.jsonl") if path.stat().st_size)
KINDS = {
    schema.CELL: (schema.CellIdentity, schema.CellObserved),
    schema.ANALYSIS: (schema.AnalysisIdentity, schema.AnalysisObserved),
}
OPTIONAL = {"distances", "details"}


def nothing(*_args, **_options):
    raise AssertionError("a record never runs anything")


SUBJECT = Subject(
    defense="trades[beta=6]", defense_params={"beta": 6, "lamb": Fraction(1, 3)}, arch="small-cnn", arch_params={},
    recipe=Recipe(name="short", arch="small-cnn", epochs=1, batch=8, lr=0.1),
)  # fmt: skip
PROVENANCE = Provenance(
    dataset="digits", data_sha256="b" * 64, split_size=360, weights_sha256="a" * 64, deployed_sha256="e" * 64,
    defense_origin="plugin_d", defense_revision=2, mandatory=("square",), arch_origin="plugin_n", arch_revision=1,
)  # fmt: skip


def cell():
    wanted = Cell(
        subject=SUBJECT, attack="pgd-10", params={"steps": 10, "step": Fraction(2, 255)},
        threat=ThreatModel(kind="linf", eps=Fraction(8, 255)),
    )  # fmt: skip
    attack = Attack(name="pgd-10", run=nothing, threats=("linf",), revision=3)
    kind = ThreatKind(name="linf", distance=nothing, verify=nothing)
    identity = cell_identity(wanted, attack, "plugin_a", PROVENANCE, 1, 0, 6, {"train_images": "9" * 64}, kind)
    observed = {
        "n": 6, "clean": "111101", "raw": "100101", "last": "011010", "any": "011010", "forwards": 66, "backwards": 60,
        "flags": {"as_published": 1}, "probes": {"logit_noise": 0.0}, "distances": [0.5] * 6,
    }  # fmt: skip
    return cell_record(identity, observed)


def analysis():
    spec = Analysis(name="cost", run=nothing, revision=2)
    identity = analysis_identity(SUBJECT, "cost[images=8]", {"images": 8}, spec, "plugin_c", PROVENANCE, 100, 3)
    return analysis_record(identity, {"quantities": {"flops": {"value": 1.5, "n": 8, "unit": "FLOP"}}})


@pytest.mark.parametrize(("make", "golden"), list(zip((cell, analysis), GOLDEN, strict=True)), ids=["cell", "analysis"])
def test_bytes_and_key_are_those_of_before(make, golden):
    assert canonical(make()) == golden
    assert make()["key"] == json.loads(golden)["key"]
    assert seal(make()).startswith(golden + b"\nsha256:")


def test_whole_numbers_stay_whole_numbers():
    """1 and 1.0 are two values, and two keys."""
    changed = json.loads(GOLDEN[0])
    changed["outcome"]["flags"]["as_published"] = 1.0
    assert canonical(changed) != GOLDEN[0]


def test_the_page_is_generated_from_the_schema():
    assert (ROOT / "docs" / "records.md").read_text() == page()


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.parent.name)
def test_committed_records_hold_exactly_these_fields(path):
    for record in read_compacted(path):
        identity, observed = KINDS[record["identity"]["kind"]]
        assert set(record) == {"key", "identity", "outcome"}
        assert set(record["identity"]) == set(identity.__annotations__)
        missing = set(observed.__annotations__) - set(record["outcome"])
        assert missing <= OPTIONAL
        assert set(record["outcome"]) <= set(observed.__annotations__)


@pytest.mark.parametrize("names", ["ROW_FIELDS", "REVISION_FIELDS", "VARIANT_FIELDS", "SHOWN_FIELDS", "NETWORK_FIELDS"])
def test_lists_of_fields_name_fields(names):
    assert set(getattr(schema, names)) <= set(schema.CellIdentity.__annotations__)


def test_every_field_decides_or_is_told():
    """What names a cell, what varies within it, which network it is, and where its shard lies: nothing is left over."""
    known = {*schema.NETWORK_FIELDS, *schema.ROW_FIELDS, *schema.VARIANT_FIELDS, *schema.SHOWN_FIELDS}
    assert set(schema.CellIdentity.__annotations__) - known == {"schema", "kind", "start", "stop", "mandatory", "gated"}
