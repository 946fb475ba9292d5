"""The model zoo of robustbench (extra `robustbench`) as defenses `robustbench/NAME`, with its published numbers.

The models are for the dataset and the threat model that robustbench lists them under; `load` reads their weights from
files that the user puts where it says, and never downloads.
"""

from collections.abc import Iterable

from harness.api import Defense, hookimpl
from harness_robustbench.catalogue import entries


@hookimpl
def harness_defenses() -> Iterable[Defense]:
    """Offer every model of the zoo."""
    return (entry.defense() for entry in entries())
