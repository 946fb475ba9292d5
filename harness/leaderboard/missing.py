"""What a board still lacks, as requests to the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.errors import NothingSelected
from harness.leaderboard.comparison import measure, measured_row
from harness.leaderboard.definition import ColumnDefinition, Definition, RowDefinition
from harness.leaderboard.setting import Setting
from harness.planning.plan import Plan
from harness.planning.request import Request
from harness.results.rows import Row
from harness.types import Cell, Subject, ThreatModel

_BARE = ColumnDefinition(label="", settings={})


def requests(definition: Definition, rows: Sequence[Row], only: Sequence[str] = ()) -> list[Request]:
    """Make the fewest requests that measure every missing cell, in the order of the board; none where it is complete.

    A ranked board asks for all of its attacks; see `lacking`. `only`: these datasets.

    Raises:
        NothingSelected: where no row names a defense, or none is on a dataset of `only`.
    """
    if not any(row.defense for row in definition.rows):
        why = f": {definition.unmeasurable}" if definition.unmeasurable else ""
        raise NothingSelected(f"board '{definition.name}' names no defense, so nothing of it can be measured{why}")
    own = definition.columns or (_BARE,)
    here = {definition.setting(row, column).dataset for row in definition.rows if row.defense for column in own}
    if unknown := set(only) - here:
        raise NothingSelected(
            f"board '{definition.name}' has no row on {', '.join(sorted(unknown))}; it has: {', '.join(sorted(here))}"
        )
    wanted: dict[tuple[Setting, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for row, columns in _missing(definition, rows):
        settings: dict[Setting, list[ColumnDefinition]] = {}
        for setting, column in columns:
            settings.setdefault(replace(setting, reading="robust", protocol=""), []).append(column)
        for setting, together in settings.items():
            if only and setting.dataset not in only:
                continue
            attacks = tuple(column.attack for column in together if column.attack)
            analyses = tuple(dict.fromkeys(column.analysis for column in together if column.analysis))
            wanted.setdefault((setting, attacks, analyses), []).append(row.defense)
    found = [request_for(*key, defenses) for key, defenses in wanted.items()]
    if definition.kind == "ranked":
        by_setting: dict[Setting, list[str]] = {}
        for row in definition.rows:
            setting = definition.setting(row, _BARE)
            runs = row.defense and not definition.never(row) and (not only or setting.dataset in only)
            for seed in setting.train_seeds if runs else ():
                by_setting.setdefault(replace(setting, train_seeds=(seed,)), []).append(row.defense)
        every = (tuple(definition.attacks), tuple(definition.analyses))
        found += [request_for(setting, *every, defenses) for setting, defenses in by_setting.items()]
    return found


def lacking(plan: Plan, rows: Sequence[Row]) -> Plan:
    """Cut a plan down to the subjects that lack a cell or an analysis: nothing is trained for the others."""
    left = [subject for subject in plan.subjects if not _complete(subject, plan, rows)]
    return replace(
        plan, subjects=left, groups=[group for group in plan.groups if group[0].subject in left],
        analyses=[one for one in plan.analyses if one.subject in left],
    )  # fmt: skip


def _complete(subject: Subject, plan: Plan, rows: Sequence[Row]) -> bool:
    recipe = subject.recipe.name if subject.recipe else ""
    name = (plan.dataset_name, subject.defense, subject.arch, recipe, subject.train_seed)
    row = next((r for r in rows if (r.dataset, r.defense, r.arch, r.recipe, r.train_seed) == name), None)
    return row is not None and (
        all(_enough(row, cell, plan) for cell in plan.cells if cell.subject == subject)
        and all(one.analysis in row.analyses for one in plan.analyses if one.subject == subject)
    )


def _enough(row: Row, cell: Cell, plan: Plan) -> bool:
    """Tell whether a cell is measured on as many images as are asked for."""
    found = row.cells.get((cell.attack, str(cell.threat), cell.seed))
    return found is not None and found.n >= plan.images(found.split_size)


def unmeasured(definition: Definition, rows: Sequence[Row]) -> list[str]:
    """List the rows of a ranked board that no record is of, by their labels."""
    found = []
    for row in definition.rows:
        setting = definition.setting(row, _BARE)
        left = [seed for seed in setting.train_seeds if not _has(measured_row(row, setting, rows, seed), setting)]
        some = len(left) < len(setting.train_seeds)
        found += [f"{row.label} (training seed {seed})" for seed in left] if some else [row.label]
    return found


def _has(row: Row | None, setting: Setting) -> bool:
    if row is None or not setting.threat:
        return row is not None
    threat = ThreatModel.parse(setting.threat)
    found = [ThreatModel.parse(text) for text in row.threats()]
    if not found:  # No threat model tells the records of analyses alone apart.
        return bool(row.analyses)
    return any(one.kind == threat.kind and threat.eps in (None, one.eps) for one in found)


def _missing(
    definition: Definition, rows: Sequence[Row]
) -> list[tuple[RowDefinition, list[tuple[Setting, ColumnDefinition]]]]:
    """List for each row which of its columns are not measured, each training seed a setting of its own."""
    found = []
    for row in definition.rows:
        columns = [
            (replace(setting, train_seeds=(seed,)), column)
            for column in (definition.column(row, column) for column in definition.columns)
            for setting in (definition.setting(row, column),)
            for seed in setting.train_seeds
            if row.defense and (column.attack or column.analysis) and not definition.never(row, column)
            and measure(row, column, setting, rows, seed) is None
        ]  # fmt: skip
        if columns:
            found.append((row, columns))
    return found


def request_for(
    setting: Setting, attacks: tuple[str, ...], analyses: tuple[str, ...], defenses: list[str]
) -> Request:  # fmt: skip
    """Make the request that measures these attacks and analyses of some defenses in one setting, its first seed's."""
    threats = (setting.threat,) if setting.threat and set(attacks) - {"clean"} else ()
    return Request(
        defenses=list(dict.fromkeys(defenses)), attacks=attacks, analyses=analyses, dataset=setting.dataset,
        threats=threats, arch=setting.arch, recipe=setting.recipe,
        limit=setting.n, seed=setting.seed, train_seed=setting.train_seeds[0],
    )  # fmt: skip
