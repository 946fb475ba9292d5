"""The fields of a record: what decides a result, and what was observed. Their names stand here and nowhere else.

`docs/records.md` is generated from this module: `python -m harness.storage.page > docs/records.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NotRequired, TypeAlias, TypedDict, TypeGuard, cast

if TYPE_CHECKING:
    from harness.types import Subject

SCHEMA: Final = 3
CELL: Final = "cell"
ANALYSIS: Final = "analysis"

Plain: TypeAlias = bool | int | float | str | None
"""A parameter's value as JSON has it; fractions and infinities are text."""


class NetworkIdentity(TypedDict):
    """Which network on which images: the same weights deployed with other parameters are another network."""

    dataset: Annotated[str, "name of the dataset"]
    data_sha256: Annotated[str, "sha256 over the pixels and labels of the test split"]
    split: Annotated[str, "the split that is attacked: always `test`"]
    split_size: Annotated[int, "how many images the whole split has"]
    defense: Annotated[str, "id of the defense, with the parameters that differ from their defaults in brackets"]
    defense_params: Annotated[dict[str, Plain], "every parameter of the defense, resolved"]
    defense_origin: Annotated[str, "plugin and distribution that provide the defense"]
    defense_revision: Annotated[int, "raised when what the defense trains or deploys changes"]
    arch: Annotated[str, "id of the architecture, or that the defense brings its own"]
    arch_params: Annotated[dict[str, Plain], "every parameter of the architecture, resolved"]
    arch_origin: Annotated[str, "plugin and distribution that provide the architecture"]
    arch_revision: Annotated[int, "raised when the same parameters build another network"]
    recipe: Annotated[str, "name of the recipe, `given weights`, or `own` where the defense needs none"]
    train_seed: Annotated[int, "seed of the training"]
    weights_sha256: Annotated[str, "sha256 over the trained tensors"]
    deployed_sha256: Annotated[str, "sha256 over the tensors of what is deployed and judged"]


class SubjectIdentity(NetworkIdentity):
    """A network as it is judged."""

    schema: Annotated[int, "version of this schema"]
    mandatory: Annotated[list[str], "attacks without which a row is flagged `weak_protocol`"]
    passes: Annotated[int, "votes: how many fresh predictions stand behind one verdict"]
    gated: Annotated[bool, "whether a choice inside the prediction hides part of the gradient"]


class CellIdentity(SubjectIdentity):
    """What decides the result of one attack on one shard; its sha256 is the record's key."""

    kind: Annotated[Literal["cell"], "the kind of record"]
    judge: Annotated[int, "revision of the judge"]
    start: Annotated[int, "first image of the shard, in the fixed order of the dataset"]
    stop: Annotated[int, "the image after the last one of the shard"]
    attack: Annotated[str, "id of the attack, `name[parameters]@stand_in`"]
    attack_origin: Annotated[str, "plugin and distribution that provide the attack"]
    attack_revision: Annotated[int, "raised when results of the attack change"]
    params: Annotated[dict[str, Plain], "every parameter of the attack, resolved"]
    threat: Annotated[str, "threat model, `kind:eps`, eps on the [0, 1] pixel scale for norms"]
    on: Annotated[str, "the stand-in that is differentiated; empty for what is deployed"]
    knowledge: Annotated[str, "what the attacker knows: static, transfer, adaptive or blackbox"]
    minimal: Annotated[bool, "whether the attack seeks the smallest perturbation"]
    supplies: Annotated[dict[str, str], "what the attack was given besides the model -> its sha256"]
    ranked: Annotated[bool, "whether the threat model has a budget and valid images"]
    seed: Annotated[int, "seed of the attack"]
    precision: Annotated[str, "number format of the search"]


class AnalysisIdentity(SubjectIdentity):
    """What decides the result of one analysis; its sha256 is the record's key."""

    kind: Annotated[Literal["analysis"], "the kind of record"]
    analysis: Annotated[str, "id of the analysis"]
    analysis_origin: Annotated[str, "plugin and distribution that provide the analysis"]
    analysis_revision: Annotated[int, "raised when results of the analysis change"]
    params: Annotated[dict[str, Plain], "every parameter of the analysis, resolved"]
    n: Annotated[int, "how many test images it was given, the first of the fixed order"]
    seed: Annotated[int, "seed of the run"]


class CellObserved(TypedDict):
    """What was observed of one attack on one shard. Strings hold one character an image, 1 for yes."""

    n: Annotated[int, "how many images"]
    clean: Annotated[str, "right on the clean image"]
    raw: Annotated[str, "right on the one returned image, wherever it lies"]
    last: Annotated[str, "broken by the final image, inside the threat model"]
    any: Annotated[str, "broken by the final or any other reported image inside the threat model"]
    forwards: Annotated[int, "images that went forward through the model"]
    backwards: Annotated[int, "images that a gradient came back to"]
    flags: Annotated[dict[str, float], "what the judge noticed, by name"]
    probes: Annotated[dict[str, float], "what was measured of the network before any attack"]
    distances: NotRequired[Annotated[list[float], "distance of each returned image, in the unit of the threat model"]]
    details: NotRequired[Annotated[dict[str, list[float]], "what the attack tells of each image, unchecked"]]


class QuantityObserved(TypedDict):
    """One measured number."""

    value: Annotated[float | None, "the number; null where nothing was there to measure"]
    n: Annotated[int, "over how many images, or what else it counts"]
    unit: Annotated[str, "its unit"]


class AnalysisObserved(TypedDict):
    """What an analysis measured."""

    quantities: Annotated[dict[str, QuantityObserved], "name -> number, n and unit"]


class CellRecord(TypedDict):
    """One attack on one shard of one network."""

    key: Annotated[str, "sha256 of the identity"]
    identity: CellIdentity
    outcome: Annotated[CellObserved, "what was observed"]


class AnalysisRecord(TypedDict):
    """One analysis of one network."""

    key: Annotated[str, "sha256 of the identity"]
    identity: AnalysisIdentity
    outcome: Annotated[AnalysisObserved, "what was observed"]


Identity: TypeAlias = CellIdentity | AnalysisIdentity
Observed: TypeAlias = CellObserved | AnalysisObserved
Record: TypeAlias = CellRecord | AnalysisRecord

NETWORK_FIELDS = tuple(NetworkIdentity.__annotations__)
ROW_FIELDS = ("dataset", "data_sha256", "defense", "arch", "recipe", "train_seed", "weights_sha256")
"""What a table shows of a network, and joins records into rows by."""
UNTRAINED = ("given weights", "own")
"""What the recipe is called where nothing was trained: a file of weights, and a network that a defense loads."""
REVISION_FIELDS = ("judge", "defense_revision", "attack_revision", "arch_revision")
"""Of two records of one cell the one with the higher revisions counts, compared in this order."""
VARIANT_FIELDS = (
    *REVISION_FIELDS, "attack_origin", "defense_origin", "arch_origin", "params", "defense_params", "arch_params",
    "deployed_sha256", "minimal", "on", "knowledge", "passes", "supplies", "ranked", "precision",
)  # fmt: skip
"""What else decides a result. Within one cell these may only differ by revision."""
SHOWN_FIELDS = (
    "attack", "threat", "params", "seed", "on", "knowledge", "passes", "minimal", "ranked", "attack_revision",
    "split_size",
)  # fmt: skip
"""What a cell of a table takes over from the identity of its records."""
BITS = ("clean", "raw", "last", "any")
"""What is observed of every image, one character each."""
COUNTED = ("false_claims", "out_of_range")
"""Flags that count images, and so add up over shards; the others are true of the whole cell."""


def recipe_name(subject: Subject) -> str:
    """Say what records call the recipe of a subject, where it has none one of `UNTRAINED`."""
    given, own = UNTRAINED
    return subject.recipe.name if subject.recipe else given if subject.weights else own


def chosen(part: NetworkIdentity | Observed, names: Sequence[str]) -> dict[str, Any]:
    """Pick some fields of an identity or an observation, in the order of `names`."""
    fields = cast("Mapping[str, Any]", part)
    return {name: fields[name] for name in names}


def network_of(identity: SubjectIdentity) -> NetworkIdentity:
    """Pick the part of a record's identity that says which network on which images."""
    return cast("NetworkIdentity", chosen(identity, NETWORK_FIELDS))


def is_cell(record: Record) -> TypeGuard[CellRecord]:
    """Tell records of attacks from those of analyses."""
    return record["identity"]["kind"] == CELL


def cell_records(records: Iterable[Record]) -> Iterator[CellRecord]:
    """Pick the records of attacks."""
    return (record for record in records if is_cell(record))
