"""Randomness keyed by hash: what is drawn depends on what it is for, never on what was drawn before.

The noise of an attack is keyed by (1, seed, dataset sha256, example index in the split, purpose) and by nothing else,
so runs that differ in defense, shard, batch or number of steps share their draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from harness.storage.canonical import canonical

Distribution = Literal["uniform", "normal"]


def derive(*key: Any) -> int:
    """Derive a 63-bit seed from anything JSON can hold."""
    return int.from_bytes(hashlib.sha256(canonical(list(key))).digest()[:8], "big") >> 1


def generator(seed: int, data_sha256: str, example: int, purpose: str) -> np.random.Generator:
    """Make the random stream of one example for one purpose: Philox under the first 128 bits of the key's sha256."""
    key = hashlib.sha256(canonical([1, seed, data_sha256, example, purpose])).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "big")))


def noise(
    shape: tuple[int, ...],
    *,
    seed: int,
    data_sha256: str,
    examples: Sequence[int],
    purpose: str,
    distribution: Distribution = "uniform",
) -> np.ndarray:
    """Draw float32 (n, *shape): uniform on [-1, 1) or standard normal, one stream for each example.

    `examples`: the indices (n,) of the images in their split.
    """
    drawn = np.empty((len(examples), *shape), dtype=np.float32)
    for row, example in enumerate(examples):
        stream = generator(seed, data_sha256, example, purpose)
        if distribution == "uniform":
            drawn[row] = stream.random(shape, dtype=np.float32) * 2 - 1
        else:
            drawn[row] = stream.standard_normal(shape, dtype=np.float32)
    return drawn


def permutation(n: int, *key: Any) -> np.ndarray:
    """Draw a fixed order of n things, int64 (n,): the same n and key always give the same one."""
    return np.random.Generator(np.random.Philox(key=derive("order", n, *key))).permutation(n)
