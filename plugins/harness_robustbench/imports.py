"""Imports the zoo of robustbench without the broken imports of its top module.

The released package imports `autoattack`, which it does not install (it installs `pyautoattack`), and `pkg_resources`,
which setuptools 81 dropped: both in its top module, for a benchmark and a data loader that are not used here. The zoo
and its loader need neither, and are imported beneath a bare package. Nothing of it stays in `sys.modules`, where the
package of that name is whatever it was before.
"""

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType

from harness.api import UsageError

PACKAGE = "robustbench"
_LOADED: dict[str, ModuleType] = {}
"""Its modules once imported: timm keeps what they register, so that they are not imported a second time."""


def installed() -> ModuleSpec:
    """Find robustbench without importing it.

    Raises:
        UsageError: where it is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        raise UsageError("defenses named robustbench/... need an extra: pip install 'adversarial-harness[robustbench]'")
    return spec


@contextmanager
def zoo_loader() -> Iterator[ModuleType]:
    """Import `robustbench.utils` with all of the zoo, without its warnings, for the block only.

    Raises:
        UsageError: where robustbench is not installed, or something else that it needs does not import.
    """
    before = _taken()
    try:
        sys.modules.update(_LOADED or {PACKAGE: importlib.util.module_from_spec(installed())})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                loader = importlib.import_module(f"{PACKAGE}.utils")
            except ImportError as error:
                raise UsageError(
                    f"the model zoo of robustbench does not import: {error}. See harness doctor"
                ) from error
            yield loader
            _LOADED.update({name: module for name, module in sys.modules.items() if _belongs(name)})
    finally:
        _taken()
        sys.modules.update(before)


def _taken() -> dict[str, ModuleType]:
    """Take every module of robustbench out of `sys.modules`."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if _belongs(name)}


def _belongs(name: str) -> bool:
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")
