"""Plans and runs of toy defenses: the one place in the tests that calls the harness's `run` and `report_of`."""

from pathlib import Path

from harness.planning.plan import Plan, plan
from harness.planning.request import Request
from harness.registry.registry import Registry
from harness.reporter import Reporter
from harness.running.outcome import Outcome, Settings
from harness.running.report import Report, report_of
from harness.running.run import run
from support.plugins import toy_registry


def plan_toy(registry: Registry | None = None, **asked: object) -> Plan:
    """Plan what is `asked`, by default all attacks on the toy defense `plain`."""
    request = Request(**{"defenses": ["plain"], "attacks": ["all"], "dataset": "toy", **asked})
    return plan(request, registry or toy_registry())


def bench_toy(
    folder: Path, registry: Registry | None = None, reporter: Reporter | None = None, *, batch_size: int = 250,
    time_limit: float | None = None, fail_fast: bool = False, **asked: object,
) -> Outcome:  # fmt: skip
    """Plan and run what is `asked`; see `plan_toy`."""
    registry = registry or toy_registry()
    settings = Settings(
        output=Path(folder), device="cpu", batch_size=batch_size, time_limit=time_limit, fail_fast=fail_fast
    )
    return run(plan_toy(registry, **asked), registry, settings, reporter or Reporter())


def report_of_run(outcome: Outcome) -> Report:
    """What a run shows: its rows, and the states of cells without a number."""
    return report_of([outcome])
