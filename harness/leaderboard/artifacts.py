"""What a board keeps so that its numbers can be checked again: witnesses, small weights, and the sha256 of each file.

leaderboards/<board>/evidence.json                   file -> sha256, bytes and, for witnesses, their number;
                                                     and which files are left out, and why
leaderboards/<board>/witnesses/<name>.safetensors    one file for each subject and threat model
leaderboards/<board>/weights/<defense>-<weights sha256>.safetensors

The table names the sha256 of evidence.json, and so that of every file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from harness.errors import BoardMismatch, StoreError
from harness.storage import atomic
from harness.storage.canonical import readable
from harness.storage.run_folder import RunFolder
from harness.storage.schema import NetworkIdentity, Record
from harness.witnesses.codec import Witness, Witnesses, from_bytes, to_bytes
from harness.witnesses.coverage import Breaks, breaks, slug

MANIFEST = "evidence.json"
FOLDERS = ("witnesses", "weights")
SMALL = 400_000
"""Bytes: files beyond that are not committed."""


class Artifact(TypedDict):
    """What the manifest says of one file; `witnesses`: how many images it holds, where it holds any."""

    sha256: str
    bytes: int
    witnesses: NotRequired[int]


class Manifest(TypedDict):
    """The files of a board by their path in it, and those that it does without, each with the reason."""

    files: dict[str, Artifact]
    left_out: dict[str, str]


def collect(board: Path, records: Iterable[Record], runs: Sequence[Path]) -> None:
    """Copy the witnesses and weights of a board's records over from runs, and write the manifest.

    Witnesses that the board has stay; a run gives those of examples that have none. What is too large or not there is
    left out, and the manifest says why. Other files in the board's folders for artifacts are removed.

    Raises:
        StoreError: where a file of witnesses or the card of a checkpoint is damaged.
    """
    files: dict[str, bytes] = {}
    left_out: dict[str, str] = {}
    for one in breaks(records):
        if one.exempt:
            continue
        name = f"witnesses/{one.name}.safetensors"
        kept = _merged(one, [board / name, *(run / name for run in runs)])
        if kept:
            files[name] = to_bytes(Witnesses(network=one.network, threat=one.threat, found=kept))
        elif one.examples:
            left_out[name] = "no run has any"
        name = weights_file(one.network, [*files, *left_out])
        if name in files or name in left_out:  # Several defenses deploy one training in different ways.
            continue
        sources = [kept_weights(board, one.network)]
        sources += [checkpoint(RunFolder(run), one.network) for run in runs]
        source = next((path for path in sources if path), None)
        if source:
            files[name] = source.read_bytes()
        else:
            left_out[name] = "not beside the runs"
    for name in [name for name, data in files.items() if len(data) > SMALL]:
        left_out[name] = f"{len(files.pop(name))} bytes, more than {SMALL}"
    for path in [path for path in _files(board) if _relative(board, path) not in files]:
        path.unlink()
    for name, data in files.items():
        atomic.replace(board / name, data)
    described = {name: _described(name, data) for name, data in files.items()}
    atomic.replace(board / MANIFEST, readable({"schema": 1, "files": described, "left_out": left_out}))


def check(board: Path) -> None:
    """Compare every file with the manifest; a board without artifacts passes.

    Raises:
        BoardMismatch: naming each file that differs, is missing or left over.
    """
    path = board / MANIFEST
    stated = _manifest(path)["files"] if path.exists() else {}
    found = {_relative(board, file): file for file in _files(board)}
    wrong = [f"{board / name} is missing; {MANIFEST} names it" for name in sorted(stated.keys() - found.keys())]
    wrong += [f"{found[name]} is not named by {path}" for name in sorted(found.keys() - stated.keys())]
    for name in sorted(stated.keys() & found.keys()):
        sha256 = hashlib.sha256(found[name].read_bytes()).hexdigest()
        if sha256 != stated[name]["sha256"]:
            wrong.append(f"{found[name]}: its sha256 is {sha256}, {MANIFEST} says {stated[name]['sha256']}")
    if wrong:
        raise BoardMismatch("\n".join(wrong))


def left_out(board: Path) -> dict[str, str]:
    """Read which files a board does without, each with the reason.

    Raises:
        BoardMismatch: for a manifest that cannot be read.
    """
    path = board / MANIFEST
    return _manifest(path)["left_out"] if path.exists() else {}


def footer(board: Path) -> str:
    """Write what table.md says of the artifacts that are kept; empty where there is no manifest.

    Raises:
        BoardMismatch: for a manifest that cannot be read.
    """
    path = board / MANIFEST
    if not path.exists():
        return ""
    files = _manifest(path)["files"]
    number = sum(file.get("witnesses", 0) for file in files.values())
    networks = sum(name.startswith("weights/") for name in files)
    lines = [
        "",
        f"Witnesses: {number} adversarial images, and the weights of {networks} networks, in the files that {MANIFEST}",
        f"names, sha256 `{hashlib.sha256(path.read_bytes()).hexdigest()}`.",
        "`harness verify BOARD --rescore` judges every one of them again.",
        *(f"Exempt from that: {name} ({why})." for name, why in sorted(left_out(board).items())),
    ]
    return "\n".join(lines) + "\n"


def weights_file(network: NetworkIdentity, known: Iterable[str] = ()) -> str:
    """Name the file of a board that holds the weights of a network: of those known the one that has them, or a new one.

    One training is kept once, whichever defenses deploy it.
    """
    end = f"-{network['weights_sha256'][:12]}.safetensors"
    named = (name for name in known if name.startswith("weights/") and name.endswith(end))
    return min(named, default=f"weights/{slug(network['defense'])}{end}")


def kept_weights(board: Path, network: NetworkIdentity) -> Path | None:
    """Find the file of a board with the weights of a network, or None."""
    path = board / weights_file(network, [_relative(board, path) for path in _files(board)])
    return path if path.exists() else None


def checkpoint(run: RunFolder, network: NetworkIdentity) -> Path | None:
    """Find the file beside a run with the weights of a network, by what the cards of the checkpoints say.

    None where no card names them.

    Raises:
        StoreError: for a card that cannot be read.
    """
    for card in sorted(run.checkpoints.glob("*/card.json")):
        try:
            hashes = json.loads(card.read_bytes())["tensors_sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{card} is damaged ({error}). Remove {card.parent} to train again") from error
        for selection, sha256 in sorted(hashes.items()):
            if sha256 == network["weights_sha256"]:
                return card.parent / f"{selection}.safetensors"
    return None


def _merged(one: Breaks, paths: Iterable[Path]) -> dict[int, Witness]:
    """Merge the witnesses of broken examples from several files; of one example that of the first file is kept."""
    kept: dict[int, Witness] = {}
    for path in paths:
        if path.exists():
            new = from_bytes(path.read_bytes(), str(path)).found
            kept = {example: new[example] for example in new.keys() & one.examples} | kept
    return kept


def _files(board: Path) -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((board / folder).glob("*"))]


def _relative(board: Path, path: Path) -> str:
    return path.relative_to(board).as_posix()


def _described(name: str, data: bytes) -> Artifact:
    told: Artifact = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    return {**told, "witnesses": len(from_bytes(data, name).found)} if name.startswith("witnesses/") else told


def _manifest(path: Path) -> Manifest:
    try:
        value = json.loads(path.read_bytes())
        files = {
            name: cast("Artifact", {**file, "sha256": str(file["sha256"])}) for name, file in value["files"].items()
        }
        return {"files": files, "left_out": {str(name): str(why) for name, why in value["left_out"].items()}}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BoardMismatch(f"{path}: damaged, it does not name the files of the board ({error})") from error
