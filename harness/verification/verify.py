"""Whether the numbers of a run or a board still stand: records, tables, and every witness that is kept of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import BoardMismatch, StoreError
from harness.leaderboard import artifacts
from harness.leaderboard import board as boards
from harness.storage.records import compact, read_compacted, unseal
from harness.storage.run_folder import RunFolder
from harness.storage.schema import NetworkIdentity, Record
from harness.witnesses.codec import Witnesses, parse, to_bytes
from harness.witnesses.coverage import Breaks, breaks
from harness.witnesses.store import WANTED


@dataclass(slots=True, kw_only=True)
class Verified:
    """What was verified of one subject under one threat model.

    `agree`: how many witnesses were judged again and break; None where none was judged. `note`: why it has no
    witnesses, or why they were not judged again. `apart`: what tells it from others that read the same.
    """

    breaks: Breaks
    apart: str = ""
    witnesses: Witnesses | None = None
    file: Path | None = None
    agree: int | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """The network and the threat model in words that no other row of the folder has."""
        return f"{self.breaks}{self.apart}"

    def __str__(self) -> str:
        """Write one line of the report."""
        broken = f"{self.name}: {len(self.breaks.examples)} broken"
        if self.breaks.exempt:
            return f"{broken}, exempt from witnesses: {self.breaks.exempt}"
        number = len(self.witnesses.found) if self.witnesses else 0
        share = f" ({100 * number / len(self.breaks.examples):.1f} %)" if self.breaks.examples else ""
        agree = f", {self.agree} agree" if self.agree is not None else ""
        return f"{broken}, {number} with a witness{share}{agree}" + (f", {self.note}" if self.note else "")


@dataclass(slots=True, kw_only=True)
class Verification:
    """What was verified of a folder.

    `problems`: one line for each thing that does not hold. `unjudged`: one for each that was to be judged or attacked
    again and could not be, although the folder does not declare that it lacks what that takes.
    """

    folder: Path
    is_run: bool
    records: list[Record] = field(default_factory=list)
    rows: list[Verified] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)

    @property
    def judged(self) -> int:
        """How many witnesses were judged again and do what the records say."""
        return sum(row.agree or 0 for row in self.rows)

    def declares(self, network: NetworkIdentity) -> bool:
        """Tell whether a board says itself that it does without the weights of a network."""
        left_out = artifacts.left_out(self.folder)
        return artifacts.weights_file(network, left_out) in left_out

    def weights(self, network: NetworkIdentity) -> Path | None:
        """Find the file with the trained weights of a network, or None."""
        if self.is_run:
            return artifacts.checkpoint(RunFolder(self.folder), network)
        return artifacts.kept_weights(self.folder, network)


def verify(folder: Path) -> Verification:
    """Check what needs neither network nor data: records, tables of a board, and which examples have a witness.

    Raises:
        StoreError: where the folder is neither a run nor a board.
    """
    run = RunFolder(folder)
    is_run = run.exists()
    if not is_run and not (folder / boards.RECORDS).exists():
        raise StoreError(f"{folder} is neither a run nor a board: there is no run.json and no {boards.RECORDS} in it")
    result = Verification(folder=folder, is_run=is_run)
    result.records = _run_records(result) if is_run else _board_records(result)
    result.rows = _told_apart(breaks(result.records))
    kept = {path.stem: path for path in sorted(run.witnesses.glob("*.safetensors"))}
    for row in result.rows:
        _witnesses(row, kept.pop(row.breaks.name, None), _due(result, row.breaks), result.problems)
    result.problems += [f"{path}: belongs to nothing that the records call broken" for path in kept.values()]
    return result


def _told_apart(found: Sequence[Breaks]) -> list[Verified]:
    """Make the rows; networks or images of one name are told apart by the start of their sha256."""
    counts = Counter(str(one) for one in found)
    return [
        Verified(breaks=one, apart=_hashes(one.network) if counts[str(one)] > 1 else "")
        for one in found
    ]  # fmt: skip


def _hashes(network: NetworkIdentity) -> str:
    return f", weights {network['weights_sha256'][:8]} on {network['dataset']} (sha {network['data_sha256'][:6]})"


def _run_records(result: Verification) -> list[Record]:
    """Read the records of a run and check them: each whole under its own key, all there, and as compacted."""
    run = RunFolder(result.folder)
    _, keys = run.promised()
    found: list[Record] = []
    missing = 0
    for key in keys:
        path = run.record(key)
        try:
            found.append(unseal(path.read_bytes(), str(path)))
            if found[-1]["key"] != key:
                raise StoreError(f"{path}: holds the record of another key, {found.pop()['key']}")
        except FileNotFoundError:
            missing += 1
        except StoreError as error:
            result.problems.append(str(error))
    if missing:
        result.problems.append(f"{result.folder}: {missing} of {len(keys)} records are missing; run its command again")
    path = run.compacted
    if not path.exists() or path.read_bytes() != compact(found):
        result.problems.append(f"{path}: not the compacted records of the run; run its command again")
    return found


def _board_records(result: Verification) -> list[Record]:
    """Read the records of a board and check that its tables and artifacts follow from them."""
    try:
        boards.check(result.folder)
    except (StoreError, BoardMismatch) as error:
        result.problems.append(str(error))
    try:
        return read_compacted(result.folder / boards.RECORDS)
    except StoreError as error:
        if str(error) not in result.problems:
            result.problems.append(str(error))
        return []


def _due(result: Verification, one: Breaks) -> bool:
    """Tell whether a folder promises witnesses of what was broken.

    It does where it keeps some, and does not say that it leaves these out.
    """
    kept = RunFolder(result.folder).witnesses
    name = f"{kept.name}/{one.name}.safetensors"
    return kept.is_dir() and not one.exempt and name not in artifacts.left_out(result.folder)


def _witnesses(row: Verified, path: Path | None, due: bool, problems: list[str]) -> None:
    """Read the witnesses of a row into it and check them: whole, of this row, of broken examples, and enough of them.

    What does not hold is appended to `problems`.
    """
    one = row.breaks
    if path is None:
        row.note = "" if due else "not kept here"
    else:
        data = path.read_bytes()
        row.file = path
        try:
            row.witnesses = parse(data, str(path))
            if to_bytes(row.witnesses) != data:
                problems.append(f"{path}: damaged, its content is not that of its sha256")
            if (row.witnesses.network, row.witnesses.threat) != (one.network, one.threat):
                problems.append(f"{path}: holds the witnesses of another network or threat model")
        except StoreError as error:
            problems.append(str(error))
        stray = sorted((row.witnesses.found if row.witnesses else {}).keys() - one.examples)
        problems += [f"{path}: example {example} is not one that the records call broken" for example in stray]
    number = len(row.witnesses.found.keys() & one.examples) if row.witnesses else 0
    if due and number < WANTED * len(one.examples):
        problems.append(f"{one}: {number} of {len(one.examples)} broken examples have a witness, 99 % are wanted")
