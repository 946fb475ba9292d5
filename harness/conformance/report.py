"""How contract tests are written and reported."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from harness.errors import NotApplicable

__all__ = ["CheckResult", "NotApplicable", "run_checks"]

Spec = TypeVar("Spec")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The result of one contract on one plugin; `detail` says why it did not pass."""

    name: str
    state: Literal["passed", "failed", "not applicable"]
    detail: str = ""


def run_checks(spec: Spec, checks: Mapping[str, Callable[[Spec], None]]) -> list[CheckResult]:
    """Hold a plugin to each contract; whatever a contract raises, except `NotApplicable`, fails that contract only."""
    results = []
    for name, contract in checks.items():
        try:
            contract(spec)
        except NotApplicable as reason:
            results.append(CheckResult(name=name, state="not applicable", detail=str(reason)))
        except AssertionError as error:
            results.append(CheckResult(name=name, state="failed", detail=str(error) or _place(error)))
        except (Exception, SystemExit) as error:
            results.append(
                CheckResult(name=name, state="failed", detail=f"{type(error).__name__}: {error} {_place(error)}")
            )
        else:
            results.append(CheckResult(name=name, state="passed"))
    return results


def _place(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"({last.filename.rsplit('/', 1)[-1]}:{last.lineno})"
