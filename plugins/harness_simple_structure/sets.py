"""The attack sets: every training image attacked once on the clean network, before training."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from harness.api import NotApplicable, UsageError
from harness.networks import tensors_sha256
from harness_simple_structure import eight_bit
from harness_simple_structure.script import REVISION, SCRIPTS
from harness_simple_structure.store import Store

if TYPE_CHECKING:
    from harness.api import AnalysisContext, TrainContext

ATTACKS = {
    "gaussian": "gaussian[draws=1]",
    "fgsm_ss": "fgsm_ss",
    "bim_ss": "bim_ss",
    "deepfool": "deepfool[steps=5,overshoot=0]",
    "cw_l2_adam100": "cw_l2_adam100",
    "nst_ss": "nst_ss",
}
"""The paper's six, as this harness names them, in the order of its table 1."""
PUBLISHED = ("gaussian", "fgsm_ss", "bim_ss", "deepfool_script", "cw_l2_adam100", "nst_ss")
"""The same six as the published script crafts them, defects included."""
NAMES = ("gaussian", "fgsm_ss", "bim_ss", "deepfool", "deepfool_script", "cw_l2_adam100", "nst_ss")

Craft = Callable[[nn.Module, torch.Tensor, torch.Tensor, list[int]], torch.Tensor]


def chosen(text: str) -> list[str]:
    """Read `all`, `published`, or a list such as `gaussian+fgsm_ss`, as names of sets in the order of the paper.

    Raises:
        UsageError: for an unknown set.
    """
    together: dict[str, Collection[str]] = {"all": ATTACKS, "published": PUBLISHED}
    asked = together.get(text, str(text).split("+"))
    if unknown := [name for name in asked if name not in NAMES]:
        raise UsageError(f"simple_structure has no set {', '.join(unknown)}; there are: {'+'.join(NAMES)}")
    return [name for name in NAMES if name in asked]


class StoredImages:
    """Every training image in 8 bits, clean and under each attack: arrays (n, c, h, w), clean first."""

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self.arrays = arrays

    def pick(self, examples: np.ndarray, kinds: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Return for each example its image of the given kind (see `sampling`), float32 in [0, 1]."""
        found = np.empty((len(examples), *self.arrays[0].shape[1:]), dtype=np.uint8)
        for kind in kinds.unique().tolist():
            asked = (kinds == kind).numpy()
            found[asked] = self.arrays[kind][examples[asked]]
        return eight_bit.images_of(found, device)


def collect(clean: nn.Module, ctx: TrainContext, sets: list[str], storage: str) -> StoredImages:
    """Read the stored images of a training, and craft the sets that are missing on the clean network."""
    store = Store(ctx.cache_dir and ctx.cache_dir / "simple_structure")
    split, examples = ctx.train.split, np.arange(len(ctx.train))
    basis: dict[str, object] = {"data": ctx.train.sha256, "storage": storage}
    start = eight_bit.pixels_of(split, slice(None))
    if storage == "jpeg75":
        plain = start
        start = store.obtain("clean", basis, plain.shape, lambda span: eight_bit.jpeg(plain[span]))
    basis |= {"network": tensors_sha256(clean.state_dict()), "seed": ctx.seed}
    identities = {name: basis | {"attack": _identity(ctx, name)} for name in sets}
    if missing := [name for name in sets if not store.has(name, identities[name])]:
        place = f"in {store.folder}" if store.folder else "of memory"
        size = f"{len(missing) * start.nbytes / 1e6:.1f} MB {place}"
        ctx.note(f"simple_structure crafts {len(missing)} sets of {len(start)} images on the clean network: {size}")
    arrays = [start]
    for name in sets:
        craft = crafter(ctx, name)

        def make(span: slice, craft: Craft = craft) -> np.ndarray:
            pixels, labels = start[span], split.labels[span]
            return attacked(
                craft, clean, pixels, labels, examples[span], storage=storage, device=ctx.device, batch=ctx.recipe.batch
            )

        arrays.append(store.obtain(name, identities[name], start.shape, make))
    return StoredImages(arrays)


def _identity(ctx: TrainContext, name: str) -> dict[str, object]:
    """What decides the images of a set besides the network and the images that it is crafted on."""
    if name in SCRIPTS:
        return {"script": name, "revision": REVISION}
    return dict(ctx.attack(ATTACKS[name]).identity)


def crafter(ctx: TrainContext | AnalysisContext, name: str) -> Craft:
    """Make `craft(model, x, y, examples)` for a set; where it cannot be crafted, the error says which sets remain."""
    if name in SCRIPTS:
        return lambda model, x, y, _examples: SCRIPTS[name](model, x, y)
    craft = ctx.attack(ATTACKS.get(name, name))

    def crafted(model: nn.Module, x: torch.Tensor, y: torch.Tensor, examples: list[int]) -> torch.Tensor:
        try:
            return craft(model, x, y, examples)
        except NotApplicable as error:
            others = "+".join(other for other in ATTACKS if other != name)
            raise NotApplicable(f"{name} cannot be crafted here: {error}; leave it out: sets={others}") from error

    return crafted


def attacked(
    craft: Craft, model: nn.Module, pixels: np.ndarray, labels: np.ndarray, examples: np.ndarray, *, storage: str,
    device: torch.device, batch: int,
) -> np.ndarray:  # fmt: skip
    """Attack stored images on a model, batch by batch, and convert the result to stored pixels."""
    made = []
    for start in range(0, len(pixels), batch):
        part = slice(start, start + batch)
        x, y = eight_bit.images_of(pixels[part], device), torch.from_numpy(labels[part]).to(device)
        made.append(eight_bit.stored(craft(model, x, y, examples[part].tolist()), storage))
    return np.concatenate(made)
