"""What is written of a measurement is what the schema says, whole numbers as whole numbers."""

from harness.conformance import toys
from harness.evaluation.judge import Judge
from harness.evaluation.measurement import Measurement
from harness.models.deployment import Deployment
from harness.storage.canonical import canonical
from support.measure import planted

MEASURED = Measurement(
    n=2, clean="11", raw="10", last="01", any="01", distances=None, forwards=4, backwards=2, flags={"false_claims": 1.0}
)


def observed(**flags):
    deployment = Deployment(
        judge=Judge(toys.tiny_net(), 4, toys.SHAPE), checkpoint=None, provenance=None, flags=flags, probes={}
    )
    return canonical(deployment.observed(MEASURED, planted(lambda *_: None, as_published=True)))


def test_flags_of_a_whole_cell_are_whole_numbers_and_counts_are_not():
    """1 and 1.0 are two values in a record: these bytes are those of the committed ones."""
    assert b'"flags":{"as_published":1,"false_claims":1.0,"stochastic":1}' in observed(stochastic=1)
    assert b"distances" not in observed()
    assert b"details" not in observed()
