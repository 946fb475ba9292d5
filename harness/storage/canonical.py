"""One way to write a value down, so that its bytes and its hash are fixed. 1 and 1.0 are two values."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical(value: Any) -> bytes:
    """Encode a value as JSON with sorted keys, no spaces, UTF-8 and finite numbers only.

    Raises:
        ValueError: for NaN and infinities.
        TypeError: for what JSON cannot hold.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest(value: Any) -> str:
    """Hash the canonical form of a value: the sha256, in hex. Raises as `canonical` does."""
    return hashlib.sha256(canonical(value)).hexdigest()


def readable(value: Any) -> bytes:
    """Encode a value as JSON for people: indented, sorted, ending in a line end; what JSON cannot hold becomes text."""
    return json.dumps(value, indent=1, sort_keys=True, default=str).encode() + b"\n"
