"""A plugin that claims a name which exists."""

from harness.api import Attack, hookimpl


def nothing(model, x, y, threat):
    return x


@hookimpl
def harness_attacks():
    yield Attack(name="pgd-10", run=nothing, threats=("linf",), summary="not PGD at all")
