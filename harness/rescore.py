"""Judging every witness again, on networks that are rebuilt from what the records say of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from harness.canonical import digest
from harness.data import LoadedPart
from harness.errors import BoardMismatch, CheckpointError, PluginError, StoreError, UsageError
from harness.judge import BrokenModel, Judge
from harness.machine import make_reproducible
from harness.rebuild import rebuilt
from harness.registry import Registry
from harness.rejudge import rejudged
from harness.types import ThreatKind, ThreatModel
from harness.verify import Verification, Verified
from harness.witnesses import Witnesses


def rescore(result: Verification, registry: Registry, data_root: Path, device: torch.device, batch: int) -> None:
    """Check threat model and verdict of every witness with one forward for each, in batches of any size.

    Puts into the rows how many agree, into their notes why they were not judged, and what disagrees into the problems.
    """
    make_reproducible()
    networks: dict[str, tuple[Judge, LoadedPart] | str] = {}
    for row in result.rows:
        if row.breaks.exempt or row.witnesses is None:
            continue
        key = digest(row.breaks.subject)
        if key not in networks:
            networks[key] = _network(result, row, registry, data_root, device)
        ready = networks[key]
        if isinstance(ready, str):
            row.note = f"not judged again: {ready}"
            continue
        try:
            result.problems += _agreement(row, row.witnesses, *ready, registry, device, batch)
        except StoreError as error:
            result.problems.append(f"{row.file}: {error}")


def _network(
    result: Verification, row: Verified, registry: Registry, data_root: Path, device: torch.device
) -> tuple[Judge, LoadedPart] | str:
    """The network of a row and its images, or why it cannot be had; where its weights are there, that is a problem.

    Raises:
        DataError: where the dataset cannot be read.
    """
    subject = dict(row.breaks.subject)
    weights = result.weights(subject)
    try:
        return rebuilt(subject, weights, registry, data_root, device)
    except (UsageError, PluginError, CheckpointError, BoardMismatch, BrokenModel) as error:
        if weights is not None or isinstance(error, BoardMismatch):
            result.problems.append(f"{row.breaks}: {error}")
        return str(error).splitlines()[0]


def _agreement(
    row: Verified, witnesses: Witnesses, judge: Judge, test: LoadedPart, registry: Registry, device: torch.device,
    batch: int,
) -> list[str]:  # fmt: skip
    """Judge the witnesses of a row; one line for each that does not do what it must."""
    threat = ThreatModel.parse(row.breaks.threat)
    kind = registry.get(ThreatKind, threat.kind).spec
    examples = sorted(witnesses.found.keys() & row.breaks.examples)
    lines: list[str] = []
    row.agree = 0
    for start in range(0, len(examples), batch):
        here = examples[start : start + batch]
        x, y = test.batch(np.array(here), device)
        images = torch.from_numpy(witnesses.images(here, x.cpu().numpy())).to(device)
        inside, wrong = (flags.tolist() for flags in rejudged(judge, x, y, images, threat, kind))
        for example, within, breaks_it in zip(here, inside, wrong, strict=True):
            row.agree += within and breaks_it
            if not within:
                lines.append(f"{row.file}: example {example} lies outside {threat}")
            elif not breaks_it:
                lines.append(f"{row.file}: example {example} does not break {row.breaks.subject['defense']}")
    return lines
