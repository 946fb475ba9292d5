"""Torch's own files in tests: read from torch 2.10 on; below, the same tests assert that they are refused."""

import functools
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest

from harness.errors import CheckpointError
from harness.networks import why_no_torch_files

REFUSED = "only .safetensors files are loaded below torch 2.10"


def refused_before_2_10(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that loads a torch file in its own process: below torch 2.10 it must end in the refusal."""

    @functools.wraps(test)
    def held(*args: Any, **kwargs: Any) -> None:
        with pytest.raises(CheckpointError, match=REFUSED) as caught:
            test(*args, **kwargs)
        assert "\n" not in str(caught.value)

    return held if why_no_torch_files() else test


def told(reason: str) -> str:
    """The reason for which a torch file is refused from 2.10 on, or the one of every torch file below."""
    return REFUSED if why_no_torch_files() else reason


def refused(ran: CompletedProcess[str]) -> bool:
    """Whether this torch loads no torch files; the command that was given one must then have refused it in one line."""
    if not why_no_torch_files():
        return False
    assert ran.returncode == 2
    assert REFUSED in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    return True
