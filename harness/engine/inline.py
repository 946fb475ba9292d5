"""Run one piece of work in this process; a failure is a value, not an end."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt(Generic[T]):
    """How a piece of work went: its value, or one line and a traceback; wall-clock seconds either way."""

    value: T | None
    error: str
    trace: str
    seconds: float


def attempt(work: Callable[[], T], but: tuple[type[Exception], ...] = ()) -> Attempt[T]:
    """Call `work`. Ctrl-C and the kinds in `but` pass through; `sys.exit` and every other exception become an error."""
    start = time.perf_counter()
    try:
        return Attempt(value=work(), error="", trace="", seconds=time.perf_counter() - start)
    except but:
        raise
    except (Exception, SystemExit) as error:
        first = (str(error) or "no message").splitlines()[0]
        return Attempt(
            value=None,
            error=f"{type(error).__name__}: {first}",
            trace=traceback.format_exc(),
            seconds=time.perf_counter() - start,
        )
