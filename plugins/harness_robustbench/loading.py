"""Loads one model of the zoo, from local files only, without running any code that they hold."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.api import CheckpointError, NotApplicable, PluginError
from harness.networks import why_no_torch_files
from harness_robustbench.catalogue import CLASSES, Entry
from harness_robustbench.imports import installed, zoo_loader

FOLDER = "robustbench"
"""Below the data root: what robustbench calls `model_dir`."""


def load(entry: Entry, *, data: Any) -> nn.Module:
    """Build the network and fill in its weights with robustbench's own `load_model`.

    `data` is the harness's loaded dataset: of its name, classes and root nothing else is used.

    Raises:
        NotApplicable: for another dataset than the model's.
        CheckpointError: for weights that are missing, need unpickling or do not fit.
        PluginError: where robustbench fails otherwise.
    """
    _check_dataset(entry, data)
    installed()
    folder = Path(data.root) / FOLDER
    files = {folder / file: source for file, source in zip(entry.files, entry.sources, strict=True)}
    _check_files(entry, files)
    with zoo_loader() as loader, _local(loader, list(files)):
        try:
            network: nn.Module = loader.load_model(entry.model, folder, entry.dataset, entry.threat)
            return network
        except CheckpointError:
            raise
        except Exception as error:
            told = f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no message'}"
            if "loading state_dict" in told:
                raise CheckpointError(f"weights {next(iter(files))} do not fit {entry.name}: {told}") from error
            raise PluginError(f"{entry.name}: robustbench failed to load it ({told})") from error


def _check_dataset(entry: Entry, data: Any) -> None:
    own = data.spec.name == entry.dataset
    if entry.dataset == "imagenet" and data.spec.name == "folder":
        own = data.classes == CLASSES["imagenet"]
    if not own:
        wanted = f"folder:PATH, ImageNet's 1000 class folders{_sized(entry)}" if entry.dataset == "imagenet" else None
        raise NotApplicable(
            f"{entry.name} is a model for {entry.dataset}, this is {data.name}: "
            f"take --dataset {wanted or entry.dataset}"
        )


def _sized(entry: Entry) -> str:
    return f" with images by {entry.preprocessing}" if entry.preprocessing else ""


def _check_files(entry: Entry, files: dict[Path, str]) -> None:
    missing = {file: source for file, source in files.items() if not file.is_file()}
    if missing:
        wanted = ", ".join(f"{file} from {source}" for file, source in missing.items())
        raise CheckpointError(f"weights of {entry.name} are missing; put there: {wanted}")


@contextmanager
def _local(loader: Any, files: list[Path]) -> Iterator[None]:
    """While it lasts, robustbench reads tensors only, and what it would download is the local file."""
    import timm.models._builder
    import torchvision.models._api

    def fetched(_url: str, *_args: Any, **_kwargs: Any) -> Any:
        return read_tensors(files[0])

    def refused(source: str, target: Any) -> None:
        raise CheckpointError(f"weights {target}: no such file, and nothing is downloaded; put it there from {source}")

    with ExitStack() as stack:
        stack.enter_context(_replaced(loader, "torch", _Reading(torch)))
        stack.enter_context(_replaced(loader, "download_gdrive_new", refused))
        for module in (timm.models._builder, torchvision.models._api):
            stack.enter_context(_replaced(module, "load_state_dict_from_url", fetched))
        yield


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


class _Reading:
    """torch, with a `load` that reads tensors only, whatever the environment says."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def load(self, file: Any, *_args: Any, **_kwargs: Any) -> Any:
        return read_tensors(Path(file))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)


def read_tensors(file: Path) -> Any:
    """Read what a torch file holds, on the CPU.

    Raises:
        CheckpointError: where torch is older than 2.10, it is no torch file, or would run code to load.
    """
    with file.open("rb") as opened:
        if opened.read(64).lstrip()[:1] == b"<":
            raise CheckpointError(f"weights {file}: this is a web page, not weights; download it again")
    if why := why_no_torch_files():
        raise CheckpointError(f"weights {file}: {why}. robustbench's models need torch 2.10 or newer")
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for foreign bytes; all mean the same to the user
        raise CheckpointError(
            f"weights {file}: not plain tensors ({type(error).__name__}); it would run code to load, which the harness "
            "never does. Save its state dict alone where you trust it, and put that there"
        ) from error
