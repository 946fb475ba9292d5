"""Names as users type them: `aalp[version=1]`, `pgd-10,fgsm`, `pgd-*`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction

from harness.errors import UsageError
from harness.types import FROM_DATASET, Defaults, OneOf, Value, parse_number

_PARAMETER = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*([^=,\[\]]+?)\s*")


def split_names(texts: Iterable[str]) -> list[str]:
    """Split repeated options at commas and spaces outside brackets; drop what is doubled, keep the order.

    A label in round brackets belongs to the name before it, as in `net.build (good)`.
    """
    names = [
        name for text in texts for name in re.findall(r"(?:[^,\s\[]|\[[^\]]*\]?|(?<=[^,\s]) \([^(),\s]+\))+", text)
    ]
    return list(dict.fromkeys(names))


def parse_name(text: str) -> tuple[str, dict[str, Value]]:
    """Split `name[parameter=value,...]` into the name and the values.

    Raises:
        UsageError: where the brackets cannot be read.
    """
    name, bracket, rest = text.partition("[")
    if not bracket:
        return name, {}
    matches = [_PARAMETER.fullmatch(part) for part in rest.removesuffix("]").split(",")]
    if not rest.endswith("]") or not all(matches) or not name:
        raise UsageError(f"'{text}' cannot be read: write name[parameter=value,...], as in aalp[version=1]")
    found = [(match[1], _value(match[2])) for match in matches if match]
    if len(dict(found)) < len(found):
        raise UsageError(f"'{text}' gives a parameter twice")
    return name, dict(found)


def split_target(text: str) -> tuple[str, str]:
    """Split `pgd-40[step=1/100]@base` into the attack's id and the stand-in that it is run on, empty without one."""
    attack, _, target = text.partition("@")
    return attack, target


def format_name(name: str, overrides: Mapping[str, Value]) -> str:
    """Write a name with the parameters that differ from their defaults, sorted."""
    inside = ",".join(f"{key}={format_value(value)}" for key, value in sorted(overrides.items()))
    return f"{name}[{inside}]" if inside else name


def unlabelled(name: str) -> str:
    """Take the label off a name: `net.build` of `net.build (good)`."""
    return name.partition(" (")[0]


def plain_name(text: str) -> str:
    """Turn any text into a name without brackets and spaces: `My net, v2` into `My-net-v2`; it may come out empty."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", re.sub(r"\.{2,}", ".", text)).strip("-.")


def titled(defense: str, train_seed: int) -> str:
    """Name a defense as rows of tables do: with the seed of its training, unless that is 0."""
    return f"{defense} (seed {train_seed})" if train_seed else defense


def format_value(value: Value) -> str:
    """Write a parameter so that `parse_name` reads it back."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "none" if value is None else str(value)


def resolve(noun: str, name: str, defaults: Defaults, given: Mapping[str, Value]) -> dict[str, Value]:
    """Fill in the defaults of parameters that are not given, and check the others.

    Parameters that came later (see `OneOf`) are left out where they have their default.

    Raises:
        UsageError: for a parameter that `name` does not have, or a value of another kind than its default.
    """
    resolved = {key: default_value(default) for key, default in defaults.items()}
    for key, value in given.items():
        if key not in defaults:
            offered = ", ".join(f"{k}={format_value(v)}" for k, v in resolved.items()) or "none"
            raise UsageError(f"{noun} '{name}' has no parameter '{key}'. Its parameters: {offered}")
        try:
            resolved[key] = _fitted(defaults[key], value)
        except ValueError as error:
            raise UsageError(f"{noun} '{name}': {key}={format_value(value)} {error}") from None
    return {key: value for key, value in resolved.items() if not _left_out(defaults[key], value)}


def _left_out(default: Value | OneOf, value: Value) -> bool:
    return isinstance(default, OneOf) and default.later and value == default.values[0]


def default_value(default: Value | OneOf) -> Value:
    """Pick the value that a parameter has when nothing is given."""
    return default.values[0] if isinstance(default, OneOf) else default


def overrides(defaults: Defaults, resolved: Mapping[str, Value]) -> dict[str, Value]:
    """Pick the resolved values that differ from their defaults."""
    return {key: value for key, value in resolved.items() if value != default_value(defaults[key])}


def _fitted(default: Value | OneOf, value: Value) -> Value:
    """Convert a value to the kind of number that the default is, so that 1, 1.0 and 2/2 are one parameter and one key.

    Raises:
        ValueError: where it is of another kind; the message goes on after `key=value`.
    """
    if isinstance(default, OneOf):
        # Written out, the word `none` reads as nothing.
        value = "none" if value is None and None not in default.values else value
        for choice in default.values:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        raise ValueError(f"must be one of {', '.join(format_value(choice) for choice in default.values)}")
    if isinstance(default, bool) != isinstance(value, bool):
        raise ValueError("must be true or false" if isinstance(default, bool) else "must be a number or text")
    if isinstance(default, int) and not isinstance(value, int):
        raise ValueError("must be a whole number")
    if isinstance(default, float):
        if not isinstance(value, int | float | Fraction):
            raise ValueError("must be a number")
        return float(value)
    if isinstance(default, Fraction) or default == FROM_DATASET:
        if not isinstance(value, int | float | Fraction) or not math.isfinite(value):
            raise ValueError("must be a number or a fraction")
        return Fraction(value)
    return value


def plain(value: Value) -> bool | int | float | str | None:
    """Convert a parameter to what JSON takes: fractions and infinities become text."""
    if isinstance(value, Fraction) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value


def _value(text: str) -> Value:
    words: dict[str, Value] = {"true": True, "false": False, "none": None, "inf": math.inf, "-inf": -math.inf}
    if text.lower() in words:
        return words[text.lower()]
    number = parse_number(text)
    if number is None:
        return text
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else number
