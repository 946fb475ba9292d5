"""The page that documents records, generated from the schema: `python -m harness.storage.page > docs/records.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NotRequired, get_args, get_origin, get_type_hints

from harness.storage import schema

PARTS = (
    schema.CellRecord, schema.AnalysisRecord, schema.NetworkIdentity, schema.SubjectIdentity, schema.CellIdentity,
    schema.AnalysisIdentity, schema.CellObserved, schema.AnalysisObserved, schema.QuantityObserved,
)  # fmt: skip
INTRODUCTION = f"""# Records

Generated from `harness/storage/schema.py`; change it there, then `python -m harness.storage.page > docs/records.md`.

A record is one line of canonical JSON: keys sorted, no spaces, UTF-8, finite numbers only. `key` is the sha256 of the
canonical form of `identity`, so that everything that decides a result is in its name. Time, host, versions, batch size
and device are not in records: they are in the attempt log of a run. This is schema {schema.SCHEMA}.
"""


def page() -> str:
    """Write the page: a section for each part of a record, a line for each field."""
    return "\n".join([INTRODUCTION, *(line for part in PARTS for line in _section(part))])


def _section(part: Any) -> Iterator[str]:
    yield f"## {part.__name__}\n"
    yield " ".join(part.__doc__.split()) + "\n"
    parents = [base for base in PARTS if base is not part and set(base.__annotations__) < set(part.__annotations__)]
    own = [name for name in part.__annotations__ if not any(name in base.__annotations__ for base in parents)]
    if parents:
        yield f"All fields of {max(parents, key=lambda base: len(base.__annotations__)).__name__}, and:\n"
    yield "| field | type | what it is |"
    yield "|---|---|---|"
    hints = get_type_hints(part, include_extras=True)
    for name in own:
        may_lack = get_origin(hints[name]) is NotRequired
        kind, meaning = _described(get_args(hints[name])[0] if may_lack else hints[name])
        yield f"| `{name}` | {kind} | {meaning}{'; absent where there is none' if may_lack else ''} |"
    yield ""


def _described(hint: Any) -> tuple[str, str]:
    """Tell the type of a field and the sentence about it."""
    inner, *told = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
    if hasattr(inner, "__required_keys__"):
        return inner.__name__, told[0] if told else f"see {inner.__name__}"
    return _name(inner), told[0]


def _name(kind: Any) -> str:
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "NoneType": "null"}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is dict:
        return f"name -> {_name(arguments[1])}"
    if origin is list:
        return f"list of {_name(arguments[0])}"
    if arguments and origin is not None and not isinstance(arguments[0], type):
        return " or ".join(f"`{value}`" if isinstance(value, str) else _name(value) for value in arguments)
    if arguments:
        return " or ".join(dict.fromkeys(_name(one) for one in arguments))
    return words.get(getattr(kind, "__name__", ""), getattr(kind, "__name__", str(kind)))


if __name__ == "__main__":
    sys.stdout.write(page())
