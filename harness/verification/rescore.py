"""Judging every witness again, on networks that are rebuilt from what the records say of them."""

from __future__ import annotations

import numpy as np
import torch

from harness.errors import StoreError
from harness.evaluation.machine import make_reproducible
from harness.evaluation.witnessing import rejudged
from harness.types import ThreatKind, ThreatModel
from harness.verification.rebuild import Rebuilder, Rebuilt
from harness.verification.verify import Verification, Verified
from harness.witnesses.codec import Witnesses


def rescore(result: Verification, networks: Rebuilder, batch: int) -> None:
    """Check threat model and verdict of every witness with one forward for each, in batches of any size.

    Writes into the rows of `result` how many agree, or in a note why they were not judged, and appends to its problems
    what disagrees, and to what was not judged whatever the folder does not declare as left out.

    Raises:
        DataError: where the dataset cannot be read.
    """
    make_reproducible()
    for row in result.rows:
        if row.breaks.exempt or row.witnesses is None:
            continue
        found = networks.get(row.breaks.network)
        if isinstance(found, str):
            row.note = f"not judged again: {found}"
            if not result.declares(row.breaks.network):
                result.unjudged.append(f"{row.name}: {found}")
            continue
        try:
            result.problems += _agreement(row, row.witnesses, found, networks, batch)
        except StoreError as error:
            result.problems.append(f"{row.file}: {error}")


def _agreement(row: Verified, witnesses: Witnesses, subject: Rebuilt, networks: Rebuilder, batch: int) -> list[str]:
    """Judge the witnesses of a row and count in it how many agree; one line for each that does not do what it must."""
    threat = ThreatModel.parse(row.breaks.threat)
    kind = networks.registry.get(ThreatKind, threat.kind).spec
    examples = sorted(witnesses.found.keys() & row.breaks.examples)
    lines: list[str] = []
    row.agree = 0
    for start in range(0, len(examples), batch):
        here = examples[start : start + batch]
        x, y = subject.test.batch(np.array(here), networks.device)
        images = torch.from_numpy(witnesses.images(here, x.cpu().numpy())).to(networks.device)
        inside, wrong = (flags.tolist() for flags in rejudged(subject.judge, x, y, images, threat, kind))
        for example, within, breaks_it in zip(here, inside, wrong, strict=True):
            row.agree += within and breaks_it
            if not within:
                lines.append(f"{row.file}: example {example} lies outside {threat}")
            elif not breaks_it:
                lines.append(f"{row.file}: example {example} does not break {row.breaks.network['defense']}")
    return lines
