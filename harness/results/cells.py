"""Records -> cells: the newest of each kind, shards joined, readings derived image by image."""

from __future__ import annotations

import functools
import math
import statistics
from dataclasses import dataclass, field
from typing import Any

from harness.errors import StoreError
from harness.results.naming import source_of
from harness.storage.canonical import digest
from harness.storage.schema import (
    COUNTED,
    REVISION_FIELDS,
    SHOWN_FIELDS,
    VARIANT_FIELDS,
    CellIdentity,
    CellRecord,
    Plain,
    chosen,
)

CellKey = tuple[str, str, int]
"""Attack, threat model, seed."""


@dataclass(slots=True, kw_only=True)
class CellResult:
    """One attack on one row: what was observed of all its images in the fixed order, and what it cost.

    `clean`, `raw`, `last` and `any` hold a bit for each image, as in `CellObserved`, `details` a number for each, by
    name. `forwards` and `backwards` are of all images together. `records`: the start of a sha256 over every record that
    it rests on, so that tables show any digit that changes.
    """

    attack: str
    threat: str
    params: dict[str, Plain]
    seed: int
    on: str
    knowledge: str
    votes: int
    minimal: bool
    ranked: bool
    attack_revision: int
    split_size: int
    clean: str
    raw: str
    last: str
    any: str
    forwards: int
    backwards: int
    flags: dict[str, float]
    probes: dict[str, float]
    records: str
    distances: list[float] | None = None
    details: dict[str, list[float]] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.clean)

    def number(self, parameter: str, otherwise: int = 0) -> int:
        """Read a parameter that counts, such as `steps`; `otherwise` where the attack has none."""
        return int(self.params.get(parameter, otherwise) or 0)

    @property
    def robust(self) -> str:
        """A bit for each image: right when clean, and not broken by any reported image inside the threat model."""
        return _both(self.clean, self.any)

    @property
    def robust_last(self) -> str:
        """A bit for each image: right when clean, and not broken by the final image, as in the papers' tables."""
        return _both(self.clean, self.last)

    @property
    def median_distance(self) -> float | None:
        """The median distance of the returned images, over those that are right when clean; None where there is none.

        In the unit of the threat model. For an attack that seeks the smallest perturbation, an image that it could not
        break is infinitely far.
        """
        if self.distances is None:
            return None
        far = [
            math.inf if self.minimal and raw == "1" else distance
            for distance, raw, clean in zip(self.distances, self.raw, self.clean, strict=True)
            if clean == "1"
        ]
        return statistics.median(far) if far else None

    @property
    def cost(self) -> tuple[float, float]:
        """The number of forward and of backward passes for each image, on average."""
        return self.forwards / self.n, self.backwards / self.n


def newest(parts: list[CellRecord]) -> list[CellRecord]:
    """Pick the records of the highest revisions.

    Raises:
        StoreError: where two of the highest differ in more than their revisions.
    """
    variants: dict[str, list[CellRecord]] = {}
    for record in parts:
        variants.setdefault(digest(list(_variant(record["identity"]).values())), []).append(record)
    ranked = sorted(variants.values(), key=_revisions)
    if len(ranked) > 1 and _revisions(ranked[-1]) == _revisions(ranked[-2]):
        first, second = (found[0]["identity"] for found in ranked[-2:])
        one, other = _variant(first), _variant(second)
        name = next(name for name in VARIANT_FIELDS if one[name] != other[name])
        raise StoreError(
            f"two kinds of records of {first['attack']} on {first['defense']}: {name} is {one[name]} and "
            f"{other[name]}. Keep them on separate boards"
        )
    return ranked[-1]


def _variant(identity: CellIdentity) -> dict[str, Any]:
    """Pick what decides a result; of one's own network the source, whatever it is called."""
    fields = chosen(identity, VARIANT_FIELDS)
    if source := source_of(identity):
        fields["defense_origin"] = fields["arch_origin"] = source
    return fields


def _revisions(parts: list[CellRecord]) -> list[int]:
    return list(chosen(parts[0]["identity"], REVISION_FIELDS).values())


def join(parts: list[CellRecord]) -> CellResult | None:
    """Put shards end to end from position 0, taking the longest where a limited run overlaps a full one.

    None where no shard starts there.
    """
    shards: list[CellRecord] = []
    position = 0
    while True:
        here = [record for record in parts if record["identity"]["start"] == position]
        if not here:
            break
        shards.append(max(here, key=lambda record: (record["identity"]["stop"], record["key"])))
        position = shards[-1]["identity"]["stop"]
    if not shards:
        return None
    observed = [record["outcome"] for record in shards]
    flags: dict[str, float] = {}
    for one in observed:
        for name, value in one["flags"].items():
            flags[name] = flags.get(name, 0) + value if name in COUNTED else max(flags.get(name, 0), value)
    shown = chosen(shards[0]["identity"], SHOWN_FIELDS)
    return CellResult(
        votes=shown.pop("passes"),
        **shown,
        clean="".join(one["clean"] for one in observed),
        raw="".join(one["raw"] for one in observed),
        last="".join(one["last"] for one in observed),
        any="".join(one["any"] for one in observed),
        forwards=sum(one["forwards"] for one in observed),
        backwards=sum(one["backwards"] for one in observed),
        flags=flags,
        probes=observed[0].get("probes", {}),
        records=digest(shards)[:12],
        distances=(
            [distance for one in observed for distance in one["distances"]]
            if all("distances" in one for one in observed)
            else None
        ),
        details={
            name: [value for one in observed for value in one["details"][name]]
            for name in observed[0].get("details", {})
            if all(name in one.get("details", {}) for one in observed)
        },
    )


# Asked for image by image and flag by flag: the same two strings come back again and again.
@functools.lru_cache(maxsize=4096)
def _both(clean: str, broken: str) -> str:
    return "".join("1" if right == "1" and hit == "0" else "0" for right, hit in zip(clean, broken, strict=True))
