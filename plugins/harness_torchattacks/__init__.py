"""Every attack that torchattacks offers (extra `torchattacks`), as `torchattacks/NAME`; see `catalogue`."""

from collections.abc import Iterable

from harness.api import Attack, hookimpl
from harness_torchattacks.defective import defective
from harness_torchattacks.offered import offered


@hookimpl
def harness_attacks() -> Iterable[Attack]:
    """Offer every class, those with a defect included, which never run."""
    yield from offered()
    yield from defective()
