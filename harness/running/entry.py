"""Python's way in: the words of `harness bench`, as a function; the command line is a thin layer over it.

Light until something runs: usage errors answer without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import PluginError, StoreError, UsageError
from harness.planning.plan import Plan, plan
from harness.planning.request import Request
from harness.registry.discovery import discover
from harness.registry.registry import Registry, broken_line
from harness.running.lacking import board_folder, lacking
from harness.types import Attack, parse_number

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from harness.models.own_model import OwnModel
    from harness.reporter import Reporter
    from harness.running.outcome import Outcome, Settings
    from harness.running.report import Report

    Model = str | nn.Module | Callable[..., nn.Module]

Names = str | Sequence[str]
"""One name, comma list or glob, or several of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What will run: every name is resolved and every value checked, nothing is loaded yet."""

    registry: Registry
    plans: Sequence[Plan]
    settings: Settings

    def run(self, one: Plan, reporter: Reporter) -> tuple[Outcome, Report]:
        """Run one of the plans, and write its tables beside its records."""
        from harness.running.report import report_of
        from harness.running.run import run
        from harness.storage.run_folder import RunFolder

        outcome = run(one, self.registry, self.settings, reporter)
        report = report_of([outcome], one.skips)
        if outcome.run is not None:
            report.write(RunFolder(outcome.run))
        return outcome, report


def bench(
    defense: Names = (), attacks: Names = "all", *, model: Model | None = None, name: str = "",
    dataset: str | None = None, threat: Names = (), limit: float | None = None, analyses: Names = (), arch: str = "",
    recipe: str = "", weights: str | Path = "", sha256: str = "", board: str | Path = "", seed: int = 0,
    train_seed: int = 0, output: str | Path = "results", data_root: str | Path = "data", device: str = "auto",
    batch_size: int = 250, time_limit: str | float | None = None, fail_fast: bool = False,
    plugin: str | Path | Sequence[str | Path] = (), no_plugin: Names = (), strict_plugins: bool = False,
    reporter: Reporter | None = None,
) -> Report:  # fmt: skip
    """Train or load each defense, attack it, judge every image, write records and tables.

    The words are those of `harness bench`, and so are the errors; `dataset` is digits by default and, beside `board`,
    all datasets of its rows. `model` may also be a network in memory or a function that returns one: an `nn.Module`
    that takes images (n, c, h, w) in [0, 1] and answers logits (n, classes). It is copied, never changed; records name
    it by its weights and by whatever else decides its answers, as far as that can be read (otherwise none of its
    records is ever reused). `name`: what to call it in tables; by default it has the name of its function or class, and
    with `weights` that of their file too.

    Args:
        threat: budgets such as `linf:8/255`, on the [0, 1] pixel scale for norms; each replaces its own kind's.
        limit: the first n test images of a fixed order, or a share of them below 1.
        time_limit: seconds, or text such as `10m`, for each attack on each defense.
        reporter: told what goes on; silent by default.

    Raises:
        UsageError: for names or values that cannot be used.
        NothingSelected: where nothing is left to run.
        CheckpointError, DataError: for weights or images that cannot be read.
        KeyboardInterrupt: after Ctrl-C; finished work is kept.
    """
    from harness.reporter import Reporter
    from harness.running.report import report_of

    told = reporter or Reporter()
    prepared = prepare(
        defense=defense, attacks=attacks, model=model, name=name, dataset=dataset, threat=threat, limit=limit,
        analyses=analyses, arch=arch, recipe=recipe, weights=weights, sha256=sha256, board=board, seed=seed,
        train_seed=train_seed, output=output, data_root=data_root, device=device, batch_size=batch_size,
        time_limit=time_limit, fail_fast=fail_fast, plugin=plugin, no_plugin=no_plugin, strict_plugins=strict_plugins,
        warn=told.warn,
    )  # fmt: skip
    outcomes = []
    for one in prepared.plans:
        outcome, _ = prepared.run(one, told)
        outcomes.append(outcome)
        if outcome.interrupted:
            raise KeyboardInterrupt(f"finished work is kept in {outcome.run}; the same call goes on")
    return report_of(outcomes, [skip for one in prepared.plans for skip in one.skips])


def list_attacks(plugin: str | Path | Sequence[str | Path] = (), no_plugin: Names = ()) -> pd.DataFrame:
    """List every attack that is installed: name, threat models, access, groups, summary, provider."""
    import pandas as pd

    entries = sorted(find_plugins(plugin, no_plugin).entries(Attack), key=lambda entry: entry.spec.name)
    return pd.DataFrame(
        {
            "attack": entry.spec.name, "threats": ", ".join(entry.spec.threats), "access": entry.spec.access,
            "groups": ", ".join(entry.spec.groups), "summary": entry.spec.summary, "defect": entry.spec.defect,
            "from": str(entry.provider),
        }
        for entry in entries
    )  # fmt: skip


def load(place: str | Path) -> Report:
    """Read what a run, a board or a records.jsonl says; a board may be named as in `leaderboards/`.

    Raises:
        StoreError: where there are no records, or they are damaged.
    """
    from harness.results.rows import rows
    from harness.results.sources import read_records
    from harness.running.report import Report

    path = Path(place)
    if not path.exists() and len(path.parts) == 1:
        path = board_folder(place)
    if not path.exists():
        raise StoreError(f"{place}: no such run, board or records.jsonl, here or in leaderboards/")
    return Report(rows=rows(read_records(path)), path=path)


def prepare(
    *, defense: Names, attacks: Names, model: Model | None, name: str = "", dataset: str | None, threat: Names,
    limit: float | None, analyses: Names, arch: str, recipe: str, weights: str | Path, sha256: str,
    board: str | Path, seed: int, train_seed: int, output: str | Path, data_root: str | Path, device: str,
    batch_size: int, time_limit: str | float | None, fail_fast: bool, plugin: str | Path | Sequence[str | Path],
    no_plugin: Names, strict_plugins: bool, warn: Callable[[str], None] = lambda line: None,
) -> Prepared:  # fmt: skip
    """Resolve and check everything that `bench` is given.

    `warn`: told about broken plugins.

    Raises:
        UsageError: for names or values that cannot be used.
    """
    asked, chosen = _texts(defense), _texts(attacks)
    if not (asked or model is not None or board):
        raise UsageError("--defense: name at least one, or give --model or --board")
    decided = (*asked, *_texts(threat), *_texts(analyses), arch, recipe, str(weights or ""), sha256, model, limit)
    if board and (any(word not in (None, "") for word in decided) or chosen != ["all"] or seed or train_seed):
        raise UsageError("--board: a board says itself what is measured; leave the other words out")
    if name and model is None:
        raise UsageError("--name: goes with --model; a defense has its name")
    if sha256 and not (model is not None and weights):
        raise UsageError("--sha256: goes with --model and --weights")
    if (arch or recipe) and not asked:
        raise UsageError("--arch, --recipe: go with --defense: --model brings its own network")
    for flag, number, least in (("batch-size", batch_size, 1), ("seed", seed, 0), ("train-seed", train_seed, 0)):
        if type(number) is not int:
            raise UsageError(f"--{flag}: must be a whole number, not {number!r}")
        if number < least:
            raise UsageError(f"--{flag}: must be at least {least}")
    if limit is not None and type(limit) not in (int, float):
        raise UsageError(f"--limit: must be a number, not {limit!r}")
    limit_s = None if time_limit in (None, "") else seconds(str(time_limit))
    registry = find_plugins(plugin, no_plugin, strict_plugins, warn)
    own = _own(model, str(weights or ""), sha256, name, warn) if model is not None else None
    if own is not None:
        registry = own.join(registry)
        asked, weights = [*asked, own.name], ""
    if board:
        plans = lacking(board, [dataset] if dataset else [], Path(output), registry)
    else:
        request = Request(
            defenses=asked, attacks=chosen, dataset=dataset or "digits", threats=_texts(threat), arch=arch,
            recipe=recipe, weights=str(weights or ""), limit=limit, seed=seed, train_seed=train_seed,
            analyses=_texts(analyses),
        )  # fmt: skip
        plans = [plan(request, registry)]
    if own is not None:
        own.check(plans[0].dataset, train_seed)
    from harness.running.outcome import Settings

    settings = Settings(
        output=Path(output), data_root=Path(data_root), device=device, batch_size=batch_size, time_limit=limit_s,
        fail_fast=fail_fast,
    )  # fmt: skip
    return Prepared(registry=registry, plans=plans, settings=settings)


def find_plugins(
    plugin: str | Path | Sequence[str | Path] = (), no_plugin: Names = (), strict: bool = False,
    warn: Callable[[str], None] = lambda line: None,
) -> Registry:  # fmt: skip
    """Discover what is installed, and warn about what is broken or clashes.

    Raises:
        PluginError: with `strict`, for any of them.
    """
    files = [plugin] if isinstance(plugin, str | Path) else plugin
    found = discover([Path(file) for file in files], _texts(no_plugin))
    problems = [broken_line(broken) for broken in found.broken] + found.clashes()
    if problems and strict:
        raise PluginError("\n".join(problems))
    for line in problems:
        warn(line)
    return found


def seconds(text: str) -> float:
    """Read a duration: a number with s, m or h, seconds without.

    Raises:
        UsageError: where it is none, or not positive.
    """
    unit = {"s": 1, "m": 60, "h": 3600}.get(text.strip()[-1:], 0)
    number = parse_number(text.strip()[:-1] if unit else text)
    if number is None or number <= 0:
        raise UsageError(f"'{text}' is no time: write a number with s, m or h, as in 90s, 10m or 2h")
    return float(number) * (unit or 1)


def _texts(names: Names | None) -> list[str]:
    return [names] if isinstance(names, str) and names else list(names or ())


def _own(model: Any, weights: str, sha256: str, name: str, warn: Callable[[str], None]) -> OwnModel:
    from harness.models.own_model import own_model

    found = own_model(model, weights, sha256, name)
    found.warn = warn
    return found
