"""Adversarial images kept as proof: how one image is written down, and the file that holds many.

A witness is an image that broke one example of one subject under one threat model, and the attack that found it. For
linf it is int8 k, read as clamp(x + k / 127 * eps); for l2, l1 and l0 the difference from x in float16, rounded toward
x. Reading back rounds toward x once more, so that no code can leave the budget. Where what is read back does not break
the network, the float32 image is kept instead.

Other threat models have no witnesses: what has no budget proves nothing, and a flow or a transport plan, which its
verifier needs beside the image, would be larger than the image. Nor have random defenses, whose verdicts are majorities
of several predictions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from harness.errors import StoreError
from harness.storage.canonical import canonical
from harness.storage.schema import NetworkIdentity
from harness.types import ThreatModel

SCHEMA = 1
CODES: Mapping[str, type[np.generic]] = {
    "linf": np.int8, "l2": np.float16, "l1": np.float16, "l0": np.float16,
}  # fmt: skip
"""Threat kind -> the type of its codes; these kinds have witnesses."""
STEPS = 127


@dataclass(frozen=True, slots=True)
class Witness:
    """One image (c, h, w): a code of the type of its threat kind, or float32 for the image itself."""

    attack: str
    code: np.ndarray


@dataclass(slots=True, kw_only=True)
class Witnesses:
    """The witnesses of one subject under one threat model: example's index in the split -> witness.

    `network`: the fields of a record's identity that say which network it is.
    """

    network: NetworkIdentity
    threat: str
    found: dict[int, Witness] = field(default_factory=dict)

    def images(self, examples: Sequence[int], x: np.ndarray) -> np.ndarray:
        """Read the images (n, c, h, w) of some examples back, float32; `x`: their clean images, float32 in [0, 1].

        Raises:
            StoreError: where they have another shape.
        """
        kinds: dict[np.dtype[Any], list[int]] = {}
        for row, example in enumerate(examples):
            kinds.setdefault(self.found[example].code.dtype, []).append(row)
        images = np.empty_like(x)
        for rows in kinds.values():
            codes = np.stack([self.found[examples[row]].code for row in rows])
            if codes.shape[1:] != x.shape[1:]:
                raise StoreError(f"holds images of shape {codes.shape[1:]}, the dataset's are {x.shape[1:]}")
            images[rows] = decode(x[rows], codes, ThreatModel.parse(self.threat))
        return images


def encode(x: np.ndarray, images: np.ndarray, threat: ThreatModel) -> np.ndarray:
    """Encode adversarial images, given their clean images; both (n, c, h, w), float32 in [0, 1].

    Returns:
        Codes (n, c, h, w), int8 or float16. The nearest int8 is inside the budget, and nearer to the image that broke
        the
        network than the next one toward x.
    """
    change = images.astype(np.float64) - x
    if CODES[threat.kind] is np.int8:
        steps = np.rint(change / max(float(threat.eps or 0), np.finfo(np.float64).tiny) * STEPS)
        return np.array(np.clip(steps, -STEPS, STEPS), dtype=np.int8)
    near: np.ndarray = change.astype(np.float16)
    beyond = np.abs(near.astype(np.float64)) > np.abs(change)
    near[beyond] = np.nextafter(near[beyond], np.float16(0))
    return near


def decode(x: np.ndarray, codes: np.ndarray, threat: ThreatModel) -> np.ndarray:
    """Read codes as float32 images (n, c, h, w): the nearest that are no farther from x than the code says."""
    if codes.dtype == np.float32:
        return codes
    change = codes.astype(np.float64)
    if codes.dtype == np.int8:
        change = change / STEPS * float(threat.eps or 0)
    near: np.ndarray = (x + change).astype(np.float32)
    beyond = np.abs(near.astype(np.float64) - x) > np.abs(change)
    near[beyond] = np.nextafter(near[beyond], x[beyond])
    return np.clip(near, 0, 1, out=near)


def to_bytes(witnesses: Witnesses) -> bytes:
    """Write witnesses as a safetensors file, the same bytes for the same witnesses.

    Its note holds a sha256 over everything else.
    """
    examples = sorted(witnesses.found)
    kept = [witnesses.found[example] for example in examples]
    attacks = sorted({witness.attack for witness in kept})
    whole = [witness.code.dtype == np.float32 for witness in kept]
    tensors: dict[str, np.ndarray] = {
        "examples": np.array(examples, dtype=np.int32),
        "attack": np.array([attacks.index(witness.attack) for witness in kept], dtype=np.int16),
        "whole": np.array(whole, dtype=np.uint8),
    }
    for name, wanted in (("codes", False), ("images", True)):
        chosen = [witness.code for witness, is_whole in zip(kept, whole, strict=True) if is_whole == wanted]
        if chosen:
            tensors[name] = np.stack(chosen)
    note = {"schema": SCHEMA, "subject": witnesses.network, "threat": witnesses.threat, "attacks": attacks}
    total = hashlib.sha256(canonical(note))
    for name in sorted(tensors):
        total.update(f"{name} {tensors[name].dtype} {tensors[name].shape}\n".encode() + tensors[name].tobytes())
    # One metadata key only: the header's order of several is not fixed.
    stated = canonical({**note, "sha256": total.hexdigest()}).decode()
    return bytes(safetensors.numpy.save(tensors, {"note": stated}))


def parse(data: bytes, origin: str) -> Witnesses:
    """Read a witness file, whether or not it is what `to_bytes` wrote.

    Raises:
        StoreError: where it cannot be read at all.
    """
    try:
        tensors = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        note = json.loads(header["__metadata__"]["note"])
        if note["schema"] != SCHEMA:
            raise StoreError(f"{origin}: schema {note['schema']}, this harness reads {SCHEMA}; run its attacks again")
        codes = {True: iter(tensors.get("images", ())), False: iter(tensors.get("codes", ()))}
        found = {
            int(example): Witness(note["attacks"][attack], next(codes[bool(whole)]))
            for example, attack, whole in zip(
                tensors["examples"], tensors["attack"], tensors["whole"], strict=True
            )
        }  # fmt: skip
        return Witnesses(network=note["subject"], threat=str(note["threat"]), found=found)
    except (safetensors.SafetensorError, ValueError, KeyError, IndexError, TypeError, StopIteration) as error:
        raise StoreError(f"{origin}: damaged, no witness file ({type(error).__name__}: {error})") from error


def from_bytes(data: bytes, origin: str) -> Witnesses:
    """Read a witness file back.

    Raises:
        StoreError: where a byte is wrong.
    """
    witnesses = parse(data, origin)
    if to_bytes(witnesses) != data:
        raise StoreError(f"{origin}: damaged, its content is not that of its sha256")
    return witnesses
