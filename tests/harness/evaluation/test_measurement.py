"""What an attack hands in beside images: evidence and details; and kinds that are judged without a budget or a box."""

from fractions import Fraction

import pytest
import torch

from harness.conformance import toys
from harness.evaluation.judge import Judge
from harness.evaluation.measurement import Measurement, Refused
from harness.types import Result, ThreatKind, ThreatModel
from support.measure import REGISTRY, judged, planted


def linf(x, x_adv, evidence=None):
    return (x_adv.double() - x.double()).abs().flatten(1).amax(dim=1)


def proven(x, x_adv, eps, evidence):
    """Inside is only what comes with a copy of the very image as its evidence."""
    if evidence is None:
        return torch.zeros(len(x), dtype=torch.bool)
    return (evidence == x_adv).flatten(1).all(dim=1)


def inside(x, x_adv, eps, evidence):
    return torch.ones(len(x), dtype=torch.bool)


def within(x, x_adv, eps, evidence):
    return linf(x, x_adv) <= eps


PROVEN = ThreatKind(name="proven", distance=linf, verify=proven)


def planted_result(run, kind=PROVEN, eps=Fraction(1, 20), batch=32, judge=None, **kwargs):
    spec, threat = planted(run, **{"threats": (kind.name,), **kwargs}), ThreatModel(kind=kind.name, eps=eps)
    judge = judge or Judge(toys.tiny_net(), 4, toys.SHAPE)
    x, y = toys.images(n=32)
    return judged(spec, judge, x, y, threat, {}, batch=batch, kind=kind, sha256=toys.TOY_SHA256)


def wrong_answers(moved):
    """Which images the model gets wrong once they are moved."""
    x, y = toys.images(n=32)
    return "".join("1" if bit else "0" for bit in toys.tiny_net()(moved(x)).argmax(dim=1) != y)


def turned(x):
    return x.flip(2)


def negative(x):
    return 1 - x


def give(last, point=None, evidence=None, any_evidence=None):
    """An attack that returns images made of x, and evidence made of x."""

    def of_x(make, x):
        return None if make is None else make(x)

    return lambda model, x, y, threat, *, ctx: Result(
        last=last(x), any=of_x(point, x), evidence=of_x(evidence, x), any_evidence=of_x(any_evidence, x)
    )


def test_both_readings_are_proven_by_their_own_evidence():
    found = planted_result(give(turned, negative, evidence=turned, any_evidence=negative))
    in_turned, in_negative = wrong_answers(turned), wrong_answers(negative)
    assert found.last == in_turned
    assert found.any == "".join(max(pair) for pair in zip(in_turned, in_negative, strict=True))
    assert len({in_turned, in_negative, found.any}) == 3, "so that a mix-up shows"


def test_evidence_of_the_last_image_serves_for_both_where_there_is_no_other():
    found = planted_result(give(turned, turned, evidence=turned))
    assert found.last == found.any == wrong_answers(turned)


@pytest.mark.parametrize(
    "run",
    [
        give(turned),
        give(turned, evidence=negative),
        give(turned, negative, evidence=turned),
        give(turned, negative, any_evidence=negative),
        give(turned, negative, evidence=turned, any_evidence=turned),
        give(turned, turned, evidence=turned, any_evidence=negative),
    ],
    ids=["none", "of another image", "one for two", "for any only", "of last twice", "of last is better"],
)
def test_an_image_without_its_own_evidence_is_refused(run):
    found = planted_result(run)
    assert isinstance(found, Refused)
    assert found.reasons == {"outside proven:1/20": 32}


def test_evidence_that_was_mixed_up_refuses_every_image_once():
    found = planted_result(give(turned, negative, evidence=negative, any_evidence=turned))
    assert found.reasons == {"outside proven:1/20": 32}


def test_evidence_is_judged_image_by_image_and_batch_by_batch():
    def half(x):
        copy = turned(x)
        copy[1::2] += 0.001
        return copy

    for batch in (32, 8, 5):
        found = planted_result(give(turned, evidence=half), batch=batch)
        assert isinstance(found, Refused)
        # Odd positions of each batch: of five images two.
        assert found.reasons == {"outside proven:1/20": {32: 16, 8: 16, 5: 6 * 2 + 1}[batch]}


def test_a_minimal_attack_wins_only_where_its_evidence_proves_it():
    def some(x):
        copy = turned(x)
        copy[:10] += 0.001
        return copy

    found = planted_result(give(turned, evidence=some), minimal=True)
    assert isinstance(found, Measurement)
    assert found.last == "0" * 10 + wrong_answers(turned)[10:]
    assert found.raw == "".join("1" if bit == "0" else "0" for bit in wrong_answers(turned)), "wherever the image lies"


def test_evidence_of_images_that_are_not_finite_proves_nothing():
    def broken(x):
        moved = turned(x)
        moved[3] = float("nan")
        return moved

    found = planted_result(give(broken, evidence=broken))
    assert found.reasons == {"not finite": 1}


# Beyond [0, 1]


def boxed(box, bounded=True, name="raw"):
    return ThreatKind(name=name, distance=linf, verify=inside, box=box, bounded=bounded)


def below(x):
    moved = x.clone()
    moved[:5, 0, 0, 0] = -0.25
    return moved


def above(x):
    moved = below(x)
    moved[3:9, 0, 1, 1] = 1.5
    return moved


@pytest.mark.parametrize(("moved", "count"), [(below, 5), (above, 9)])
def test_images_beyond_the_box_are_judged_and_counted_without_one_and_refused_with_one(moved, count):
    free = planted_result(give(moved), boxed(False))
    assert free.flags == {"out_of_range": count}
    assert free.last == wrong_answers(moved), "judged where they lie, not clamped"
    refused = planted_result(give(moved), boxed(True))
    assert isinstance(refused, Refused)
    assert refused.reasons == {"outside [0, 1]": count}


def test_images_inside_the_box_are_not_counted():
    assert planted_result(give(lambda x: x), boxed(False)).flags == {}
    edges = planted_result(give(lambda x: (x > 0.5).float()), boxed(False))
    assert edges.flags == {}, "0 and 1 are inside"


def test_a_kind_without_a_box_still_has_its_budget():
    bound = ThreatKind(name="raw", distance=linf, verify=within, box=False)
    assert planted_result(give(lambda x: x + 0.04), bound).n == 32
    assert planted_result(give(lambda x: x + 0.06), bound).reasons == {"outside raw:1/20": 32}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("box", [True, False])
def test_what_is_not_finite_is_refused_by_any_kind(box, value):
    found = planted_result(give(lambda x: torch.full_like(x, value)), boxed(box))
    assert isinstance(found, Refused)
    assert found.reasons["not finite"] == 32


def test_a_minimal_attack_may_leave_its_budget_but_not_the_box():
    bound = ThreatKind(name="raw", distance=linf, verify=within, box=True)
    refused = planted_result(give(above), bound, minimal=True)
    assert refused.reasons == {"outside [0, 1]": 9}


# Distances


def by_example(x):
    """Each image moved by another distance."""
    return (x + torch.linspace(0.001, 0.04, len(x)).view(-1, 1, 1, 1)).clamp(0, 1)


def stored(x, moved):
    return [float((a - b).abs().max()) for a, b in zip(x.double(), moved(x).double(), strict=True)]


@pytest.mark.parametrize(
    ("minimal", "bounded", "kept"),
    [(True, True, True), (False, False, True), (True, False, True), (False, True, False)],
)
@pytest.mark.parametrize("batch", [32, 5])
def test_distances_are_stored_where_they_are_the_result(minimal, bounded, kept, batch):
    kind = boxed(True, bounded)
    seen = []

    def run(model, x, y, threat, *, ctx):
        seen.append((x, by_example(x)))
        return by_example(x)

    found = planted_result(run, kind, eps=Fraction(1, 20) if bounded else None, batch=batch, minimal=minimal)
    expected = [d for x, moved in seen for d in stored(x, lambda _, moved=moved: moved)]
    assert found.distances == (pytest.approx(expected, abs=1e-12) if kept else None)
    assert len(expected) == 32


@pytest.mark.parametrize("name", ["unbounded", "linf", "l2"])
def test_distances_of_the_built_in_kinds_are_in_the_unit_of_their_budget(name):
    kind = REGISTRY.get(ThreatKind, name).spec
    found = planted_result(give(by_example), kind, eps=Fraction(2) if kind.bounded else None, minimal=kind.bounded)
    x, _ = toys.images(n=32)
    order = 2 if name == "l2" else float("inf")
    change = (by_example(x).double() - x.double()).flatten(1)
    assert found.distances == pytest.approx([float(torch.linalg.vector_norm(row, order)) for row in change])


def test_the_distance_is_told_by_the_evidence_where_the_kind_says_so():
    priced = ThreatKind(name="plan", distance=lambda x, x_adv, evidence: evidence.double(), verify=inside)

    def run(model, x, y, threat, *, ctx):
        return Result(last=x, evidence=torch.tensor([float(i) for i in ctx.examples]))

    assert planted_result(run, priced, minimal=True, batch=7).distances == [float(i) for i in range(32)]


# Details


def tell(**details):
    def run(model, x, y, threat, *, ctx):
        return Result(last=x, details={name: make(x) for name, make in details.items()})

    return run


BAD_DETAILS = {
    "too few": lambda x: torch.zeros(len(x) - 1),
    "too many": lambda x: torch.zeros(len(x) + 1),
    "a column": lambda x: torch.zeros(len(x), 1),
    "one number": lambda x: torch.tensor(1.0),
    "no number": lambda x: torch.zeros(0),
    "nan": lambda x: torch.tensor([float("nan"), *[0.0] * (len(x) - 1)]),
    "infinity": lambda x: torch.full((len(x),), float("inf")),
    "a list with nan": lambda x: [float("nan")] * len(x),
}


@pytest.mark.parametrize("make", BAD_DETAILS.values(), ids=BAD_DETAILS)
def test_malformed_details_refuse_the_shard_by_name(make):
    found = planted_result(tell(good=lambda x: torch.zeros(len(x)), broken=make), boxed(True))
    assert isinstance(found, Refused)
    assert found.reasons == {"detail 'broken' is no finite number for each image": 32}


@pytest.mark.parametrize("batch", [32, 9])
def test_details_are_recorded_as_they_are_told(batch):
    told = {
        "mean": lambda x: x.mean(dim=(1, 2, 3)),
        "double": lambda x: x.double().mean(dim=(1, 2, 3)) / 3,
        "count": lambda x: (x > 0.5).flatten(1).sum(dim=1),
        "flag": lambda x: x[:, 0, 0, 0] > 0.5,
        "listed": lambda x: x[:, 0, 0, 0].tolist(),
        "graded": lambda x: (x.clone().requires_grad_(True) * 2)[:, 0, 0, 1],
    }
    found = planted_result(tell(**told), boxed(True), batch=batch)
    x, _ = toys.images(n=32)
    one_by_one = {
        name: [float(torch.as_tensor(make(x[i : i + 1])).detach()[0]) for i in range(32)] for name, make in told.items()
    }
    assert set(found.details) == set(told)
    for name, values in one_by_one.items():
        assert found.details[name] == pytest.approx(values, rel=1e-12 if name == "double" else 1e-6)
    assert all(type(value) is float for values in found.details.values() for value in values)


def test_details_change_no_verdict():
    told = planted_result(tell(broken=lambda x: torch.ones(len(x))), boxed(True))
    untold = planted_result(tell(), boxed(True))
    assert (told.last, told.any, told.raw) == (untold.last, untold.any, untold.raw)
    assert untold.details == {}


@pytest.mark.parametrize("first", [{"a": 1.0}, {}])
def test_batches_that_tell_different_things_refuse_the_shard(first):
    def run(model, x, y, threat, *, ctx):
        told = first if 0 in ctx.examples else {"b": 2.0}
        return Result(last=x, details={name: torch.full((len(x),), value) for name, value in told.items()})

    assert isinstance(planted_result(run, boxed(True), batch=16), Refused)
