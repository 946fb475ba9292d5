"""Reads and writes robustbench's model_info: the JSON file behind one row of its leaderboards.

Numbers are numbers here and, apart from `number_forward_passes`, text there; what they leave empty is None.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from harness.api import DataError

ACCURACIES = ("clean_acc", "reported", "autoattack_acc", "external")
FLAGS = ("additional_data", "unreliable")
EMPTY = ("", "N/A", "null", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """One row: robustbench's names, accuracies in per cent, eps exact on the [0, 1] scale.

    `external` is the lowest accuracy that another evaluation than AutoAttack found. `rest`: every other field as it
    stood, such as the accuracies under corruptions.
    """

    link: str | None = None
    name: str | None = None
    authors: str | None = None
    additional_data: bool | None = None
    number_forward_passes: int | None = None
    dataset: str | None = None
    venue: str | None = None
    architecture: str | None = None
    eps: Fraction | None = None
    clean_acc: float | None = None
    reported: float | None = None
    autoattack_acc: float | None = None
    external: float | None = None
    unreliable: bool | None = None
    footnote: str | None = None
    rest: Mapping[str, Any] = field(default_factory=dict)

    def claims(self) -> dict[str, float]:
        """Collect what `Defense.claims` takes: `clean`, `aa_standard` and `external`, where given."""
        told = {"clean": self.clean_acc, "aa_standard": self.autoattack_acc, "external": self.external}
        return {name: value for name, value in told.items() if value is not None}


def read_model_info(path: Path) -> ModelInfo:
    """Read a file of robustbench's `model_info` folder.

    Raises:
        DataError: where it cannot be read or a field holds something else than robustbench writes.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no model_info JSON ({error})") from error
    return parse_model_info(found, str(path))


def parse_model_info(found: Any, origin: str) -> ModelInfo:
    """Turn the decoded JSON object into numbers; raises as `read_model_info` does."""
    if not isinstance(found, dict):
        raise DataError(f"{origin}: model_info is one JSON object, this is {type(found).__name__}")
    known = {item.name for item in fields(ModelInfo)} - {"rest"}
    values: dict[str, Any] = {}
    for key in sorted(known & found.keys()):
        try:
            values[key] = _ours(key, found[key])
        except (TypeError, ValueError, ZeroDivisionError):
            raise DataError(f"{origin}: {key} is {found[key]!r}, which is no value for it") from None
    return ModelInfo(**values, rest={key: value for key, value in found.items() if key not in known})


def write_model_info(info: ModelInfo, path: Path) -> None:
    """Write a file as robustbench's `model_info` folder holds them; what is None is left out."""
    text = json.dumps(format_model_info(info), indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def format_model_info(info: ModelInfo) -> dict[str, Any]:
    """Build the JSON object, in robustbench's order of fields."""
    values = {item.name: getattr(info, item.name) for item in fields(ModelInfo) if item.name != "rest"}
    return {key: _theirs(key, value) for key, value in values.items() if value is not None} | dict(info.rest)


def _ours(key: str, value: Any) -> Any:
    if key not in ("eps", "number_forward_passes", *ACCURACIES, *FLAGS):
        return value if value is None or isinstance(value, str) else _wrong()
    if value in EMPTY:
        return None
    if key in FLAGS:
        return value if isinstance(value, bool) else _wrong()
    if isinstance(value, bool):
        return _wrong()
    if key == "number_forward_passes":
        return int(value) if float(value).is_integer() else _wrong()
    if key == "eps":
        # Their own writer stores the float of a fraction of 255; the nearest one is what was meant.
        return Fraction(value) if isinstance(value, str) else _eps(value)
    number = float(value)
    return number if math.isfinite(number) and 0 <= number <= 100 else _wrong()


def _eps(value: float) -> Fraction:
    levels = round(value * 255)
    return Fraction(levels, 255) if math.isclose(value, levels / 255, rel_tol=1e-6) else Fraction(str(value))


def _theirs(key: str, value: Any) -> Any:
    if key == "eps":
        return _fraction(value)
    if key in ACCURACIES:
        return f"{value:.2f}" if round(value, 2) == value else str(value)
    return value


def _fraction(value: Fraction) -> str:
    """A decimal where it ends within four digits, as `0.5` and `0.031`; otherwise a fraction, as `8/255`."""
    return str(float(value)) if (value * 10**4).denominator == 1 else str(value)


def _wrong() -> Any:
    raise ValueError
