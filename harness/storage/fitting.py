"""Fitting a file of weights to a network whose names or number formats differ in ways that change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

import torch

WRAPPERS = ("module", "_orig_mod")
"""Parts of names that parallel training and compilation put in front of a network's own."""
HALF = (torch.float16, torch.bfloat16)


def aligned(tensors: dict[str, torch.Tensor], wanted: Set[str]) -> dict[str, torch.Tensor]:
    """Rename tensors that fit but for a beginning that all of their names, or all of the network's, have.

    The names of wrappers (`module.` of parallel training, `_orig_mod.` of a compiled network) may stand anywhere.
    """
    if wanted <= tensors.keys():
        return tensors
    theirs = {unwrapped(name): name for name in tensors}
    ours = {unwrapped(name): name for name in wanted}
    if len(theirs) < len(tensors) or len(ours) < len(wanted):
        return tensors
    changes = [("", ""), ("", _prefix(theirs)), (_prefix(ours), "")]
    if all(name.count(".") > 1 for name in (*theirs, *ours)):
        # Where a beginning is the only layer itself, another beginning is another layer.
        changes.append((_prefix(ours), _prefix(theirs)))
    for added, dropped in changes:
        fitting = {added + name.removeprefix(dropped): tensors[old] for name, old in theirs.items()}
        if ours.keys() <= fitting.keys():
            return {ours.get(name, name): tensor for name, tensor in fitting.items()}
    return tensors


def unwrapped(name: str) -> str:
    """Drop what wrappers put into a name."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _prefix(names: Iterable[str]) -> str:
    """The first part that all names share, with its dot; empty where there is none."""
    first = {name.partition(".")[0] for name in names if "." in name}
    return f"{first.pop()}." if len(first) == 1 else ""


def widened(tensors: dict[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Turn numbers of half precision into those of the network, which changes no value."""
    return {
        name: tensor.to(wanted[name].dtype)
        if name in wanted and tensor.dtype in HALF and wanted[name].dtype in (torch.float32, torch.float64)
        else tensor
        for name, tensor in tensors.items()
    }
