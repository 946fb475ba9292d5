"""Run one piece of work in this process; a failure is a value, not an end."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from harness.errors import NotApplicable, OutOfTime
from harness.types import CellState

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt(Generic[T]):
    """How a piece of work ended: with its value, or with one line and a traceback; wall-clock seconds either way.

    `state`: done, failed, timeout or not applicable.
    """

    value: T | None
    error: str
    trace: str
    seconds: float
    state: CellState = CellState.DONE


def attempt(work: Callable[[], T], but: tuple[type[Exception], ...] = ()) -> Attempt[T]:
    """Call `work` and tell how it ended.

    Ctrl-C and exceptions of the types in `but` pass through; `sys.exit` and every other exception become a state.
    """
    start = time.perf_counter()
    try:
        return Attempt(value=work(), error="", trace="", seconds=time.perf_counter() - start)
    except but:
        raise
    except OutOfTime:
        return _ended(
            CellState.TIMEOUT, f"the time limit was over after {time.perf_counter() - start:.0f} s of this shard", start
        )
    except NotApplicable as error:
        return _ended(CellState.NOT_APPLICABLE, str(error), start)
    except (Exception, SystemExit) as error:
        first = (str(error) or "no message").splitlines()[0]
        return _ended(CellState.FAILED, f"{type(error).__name__}: {first}", start)


def _ended(state: CellState, error: str, start: float) -> Attempt[T]:
    seconds = time.perf_counter() - start
    return Attempt(value=None, error=error, trace=traceback.format_exc(), seconds=seconds, state=state)
