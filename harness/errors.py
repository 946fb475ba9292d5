"""Everything a user or a plugin author can fix.

    HarnessError            exit code 1
    ├── UsageError          2   a name, a flag or a value that cannot be understood
    │   └── UnknownName     2   nothing of that name is installed
    ├── NothingSelected     5   a selection that matches nothing
    ├── PluginError         2   an installed plugin breaks the contract
    ├── DataError           2   a dataset cannot be read
    ├── CheckpointError     2   weights that are missing, foreign, damaged or of another network
    ├── NotApplicable       -   an attack that cannot be run on this model: the state of a cell, not a failure
    ├── StoreError          1   records that cannot be read or written
    └── BoardMismatch       4   committed tables that differ from their records

Defined where they are raised: `InvalidModel` and `AccessDenied` (a model or an attack that cannot be judged), `Refused`
(a shard that failed verification) and `NothingLacking` (0, a complete board).

The message says what was wrong, which thing and where it comes from, and what to do next. Anything else that is
raised is a bug of ours, or a failure inside a plugin, which becomes the state of a cell.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Base class: shown without a traceback, ends the process with `exit_code`."""

    exit_code = 1


class UsageError(HarnessError):
    """A name, a flag or a value that cannot be understood."""

    exit_code = 2


class UnknownName(UsageError):
    """A name of nothing that is installed; the message offers the nearest names."""

    def __init__(self, noun: str, name: str, known: Iterable[str], notes: Iterable[str] = ()) -> None:
        plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        lines = [f"unknown {noun} '{name}'." + (f" Did you mean: {', '.join(near)}?" if near else "")]
        some = f": {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" if names else ""
        lines.append(f"{len(names)} {plural} known{some}")
        super().__init__("\n".join([*lines, *notes]))


class NothingSelected(HarnessError):
    """A selection that matches nothing."""

    exit_code = 5


class PluginError(HarnessError):
    """An installed plugin that breaks the contract."""

    exit_code = 2


class DataError(HarnessError):
    """A dataset that cannot be read."""

    exit_code = 2


class CheckpointError(HarnessError):
    """Weights that are missing, foreign, damaged or of another network."""

    exit_code = 2


class NotApplicable(HarnessError):
    """Raised by an attack that cannot be run on this model or data; the message says why. No cell fails by it."""


class OutOfTime(BaseException):
    """Raised once the time limit of a cell is over. No `Exception`, so an attack that catches those cannot go on."""


class StoreError(HarnessError):
    """Records that cannot be read or written."""


class BoardMismatch(HarnessError):
    """Committed tables that differ from their records."""

    exit_code = 4
