"""Writing files so that a reader finds the whole content or none of it, whatever is killed when.

Temporary file on the same file system, all bytes, fsync, link or rename, fsync of the folder. The system calls go
through this module's names, so that a test can fail or record each of them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from pathlib import Path

from harness.errors import StoreError

STALE_SECONDS = 3600.0
"""A temporary file older than this was left by a writer that was killed."""


def create(path: Path, data: bytes, scratch: Path) -> bool:
    """Publish a file that must not exist yet; return False where the very same bytes are there already.

    Raises:
        StoreError: where other bytes are there, or the system refuses to write.
    """
    try:
        _make_folder(path.parent)
        temporary = _written(scratch, data)
        try:
            _publish(temporary, path)
        except FileExistsError:
            # A retransmitted link over NFS may say so although it worked.
            if os.stat(temporary).st_nlink == 2:  # noqa: PTH116
                return True
            if path.read_bytes() == data:
                return False
            raise StoreError(
                f"{path} exists with other content; both cannot be right. Move it away or use -o"
            ) from None
        finally:
            os.unlink(temporary)  # noqa: PTH108
            _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}. Records finished before are safe") from error
    return True


def replace(path: Path, data: bytes) -> None:
    """Publish a file, in place of an older one if there is one.

    Raises:
        StoreError: where the system refuses to write.
    """
    try:
        _make_folder(path.parent)
        temporary = _written(path.parent, data)
        try:
            os.replace(temporary, path)  # noqa: PTH105
        except OSError:
            os.unlink(temporary)  # noqa: PTH108
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror}. It holds the old content or the new, whole"
        ) from error


def probe(folder: Path) -> None:
    """Prove, before anything is computed, that a folder can be written.

    Raises:
        StoreError: where it cannot.
    """
    try:
        _written(folder, b"").unlink()
    except OSError as error:
        raise StoreError(f"cannot write into {folder}: {error.strerror}. Choose another folder with -o") from error


def sweep(folder: Path, older_than: float) -> int:
    """Remove what killed writers left in a folder before a moment (seconds since the epoch); return how many."""
    removed = 0
    for temporary in folder.glob("*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if temporary.stat().st_mtime < older_than:
                temporary.unlink()
                removed += 1
    return removed


def _publish(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        # A file system without hard links: two writers of one record write the same bytes, so the later one may win.
        if path.exists():
            raise FileExistsError(path) from error
        os.replace(_written(temporary.parent, temporary.read_bytes()), path)  # noqa: PTH105


def _written(folder: Path, data: bytes) -> Path:
    _make_folder(folder)
    temporary = folder / f"{uuid.uuid4().hex}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)  # NFS reports an exceeded quota here
    except OSError:
        os.unlink(temporary)  # noqa: PTH108
        raise
    return temporary


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make a folder so that its name survives a power cut, its parents' names too."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)
