"""A wrapper that keeps the random numbers of the model apart from those of the stages."""

from collections.abc import Callable

import torch


class Fenced:
    """The model, drawing random numbers from a stream of its own, which continues from the generators' state.

    The stages seed the global generators for every batch, so that a random defense would repeat its noise; with two
    streams neither sees the other. An empty batch, which Square asks for, is answered here: many networks cannot.
    """

    def __init__(self, model: Callable[[torch.Tensor], torch.Tensor], device: torch.device) -> None:
        self.model, self.device = model, device
        self.classes = 0
        self.stream = self._state()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits (n, k), in a tensor of their own, which Square may write to."""
        if not len(x):
            return x.new_zeros(0, self.classes)
        outside = self._state()
        self._enter(self.stream)
        try:
            logits = self.model(x).clone()
        finally:
            self.stream = self._state()
            self._enter(outside)
        self.classes = logits.shape[1]
        return logits

    def _state(self) -> tuple[torch.Tensor, ...]:
        host = torch.get_rng_state()
        return (host, torch.cuda.get_rng_state(self.device)) if self.device.type == "cuda" else (host,)

    def _enter(self, state: tuple[torch.Tensor, ...]) -> None:
        torch.set_rng_state(state[0])
        if len(state) > 1:
            torch.cuda.set_rng_state(state[1], self.device)
