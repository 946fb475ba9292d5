"""The models of robustbench 1.1.1's zoo, from `zoo.json`, one a line, so that listing needs no robustbench.

Names, sources and image sizes are those of its `model_zoo`; paper, architecture and accuracies those of its README.
Where that shows a stronger evaluation than AutoAttack, AutoAttack's accuracy is that of its model_info.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.api import Defense, lazy

CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
DEFAULTS = ("cifar10", "Linf")
"""What robustbench's `load_model` takes unless told otherwise; names leave it out too."""
BUDGETS = {
    ("cifar10", "Linf"): "linf:8/255",
    ("cifar10", "L2"): "l2:1/2",
    ("cifar10", "corruptions"): "common corruptions",
    ("cifar100", "Linf"): "linf:8/255",
    ("cifar100", "corruptions"): "common corruptions",
    ("imagenet", "Linf"): "linf:4/255",
    ("imagenet", "corruptions"): "common corruptions",
}
"""What the accuracies of a leaderboard are told under."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model of the zoo, in robustbench's own terms for dataset, threat and model.

    `claims`: `clean`, and `aa_standard` or `corruptions`, in per cent; `external` is the lowest that is known, where
    an attack beyond AutoAttack found less. `sources`: where each of its files comes from. `preprocessing`: how images
    of any size become those that it takes.
    """

    dataset: str
    threat: str
    model: str
    architecture: str
    paper: str
    claims: Mapping[str, float]
    sources: tuple[str, ...]
    preprocessing: str = ""

    @property
    def name(self) -> str:
        """`robustbench/MODEL`, with dataset and threat where they are not robustbench's defaults."""
        told = [word for word, default in zip((self.dataset, self.threat), DEFAULTS, strict=True) if word != default]
        return ".".join([f"robustbench/{self.model}", *told])

    @property
    def budget(self) -> str:
        """The threat model of its published robust accuracy."""
        return BUDGETS[self.dataset, self.threat]

    @property
    def files(self) -> tuple[PurePosixPath, ...]:
        """Where robustbench keeps its weights, below the folder that it calls `model_dir`."""
        file = PurePosixPath(self.dataset, self.threat, f"{self.model}.pt")
        if len(self.sources) == 1:
            return (file,)
        return tuple(file.with_name(f"{file.name}_m{i}.pt") for i in range(len(self.sources)))

    def defense(self) -> Defense:
        """Describe the model as a defense that loads its weights."""
        size = f", images by {self.preprocessing}" if self.preprocessing else ""
        return Defense(
            name=self.name,
            load=functools.partial(lazy("harness_robustbench.loading:load"), self),
            claims=self.claims,
            paper=self.paper,
            summary=f"{self.architecture} for {self.dataset} under {self.budget}{size}",
        )


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Read every model, in robustbench's order."""
    found = json.loads(Path(__file__).with_name("zoo.json").read_text(encoding="utf-8"))
    return tuple(Entry(**{**values, "sources": tuple(values["sources"])}) for values in found)
