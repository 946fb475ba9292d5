"""What an attack may use besides the model, and the fence around the process while it runs."""

from __future__ import annotations

import contextlib
import io
import os
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.seeds import Distribution, derive, noise

if TYPE_CHECKING:
    from harness.oracle import Oracle
    from harness.types import Images

__all__ = ["AttackContext", "isolated"]


class AttackContext:
    """Handed to an attack as `ctx`, for one batch.

    `steps_wanted`: for an attack with a prefix parameter, every value that a snapshot is wanted for, ascending.
    """

    def __init__(
        self, oracle: Oracle, like: Images, *, seed: int, data_sha256: str, examples: Sequence[int],
        steps_wanted: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.steps_wanted = tuple(steps_wanted)
        self.costs: dict[int, tuple[int, int]] = {}
        self.seed, self.data_sha256, self.examples = seed, data_sha256, tuple(examples)
        self._oracle = oracle
        self._like = like
        self._base = (oracle.forwards, oracle.backwards)

    def noise(self, purpose: str, distribution: Distribution = "uniform") -> Images:
        """Draw noise shaped like the batch, keyed for each example: uniform on [-1, 1), or `normal`.

        Purposes by convention: `start:r` for restart r, `step:t`, `draw:j`, `target`, `style`. The same purpose gives
        the same numbers in every attack, so that attacks and defenses are compared on common noise.
        """
        shape = tuple(self._like.shape[1:])
        drawn = noise(
            shape, seed=self.seed, data_sha256=self.data_sha256, examples=self.examples, purpose=purpose,
            distribution=distribution,
        )  # fmt: skip
        return torch.from_numpy(drawn).to(self._like.device)

    def reached(self, steps: int) -> None:
        """Note that so many steps are done, so that the harness can tell a snapshot's cost from the whole run's.

        Repeated for each restart: costs add up, and the largest of `steps_wanted` ends a restart.
        """
        before = self._base
        self.charge(steps)
        if steps != max(self.steps_wanted, default=steps):
            self._base = before

    def charge(self, steps: int) -> None:
        """Put what the model was asked since a restart ended, or since the last charge, on this snapshot alone."""
        forwards, backwards = self._oracle.forwards, self._oracle.backwards
        spent = self.costs.get(steps, (0, 0))
        self.costs[steps] = (spent[0] + forwards - self._base[0], spent[1] + backwards - self._base[1])
        self._base = (forwards, backwards)


@contextlib.contextmanager
def isolated(*key: object) -> Iterator[io.StringIO]:
    """Seed every global generator from the key, collect what is printed, and put the process back as it was.

    Restored: torch, NumPy and `random` generators, gradient mode, default dtype, deterministic mode, thread count and
    working directory. Yields the collected output.
    """
    numpy_state, random_state = np.random.get_state(), random.getstate()
    gradients, dtype, folder = torch.is_grad_enabled(), torch.get_default_dtype(), os.getcwd()  # noqa: PTH109
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    printed = io.StringIO()
    with torch.random.fork_rng(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        seed = derive(*key)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield printed
        finally:
            torch.set_grad_enabled(gradients)
            torch.set_default_dtype(dtype)
            torch.use_deterministic_algorithms(deterministic)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            os.chdir(folder)
            np.random.set_state(numpy_state)
            random.setstate(random_state)
