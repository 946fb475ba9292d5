"""`harness doctor`: is this installation able to work, and what to do where it is not."""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import typer

from harness import __version__
from harness.cli import options
from harness.registry import broken_line

EXTRAS = {
    "pyautoattack": "autoattack",
    "torchattacks": "torchattacks",
    "robustbench": "robustbench",
    "foolbox": "oracle",
}


def command(output: options.Output = Path("results")) -> None:
    """Check Python, torch, device, optional libraries, plugins and the results folder."""
    problems = 0
    print(f"harness {__version__}, python {platform.python_version()}, {platform.system()} {platform.machine()}")
    for name, ok, text in [_torch(), _torchvision(), *map(_extra, EXTRAS), _folder(output), *_plugins()]:
        state = {True: "ok     ", False: "PROBLEM", None: "absent "}[ok]
        print(f"{state} {name:<14} {text}")
        problems += ok is False
    print("no problems found" if not problems else f"{problems} problem(s) found")
    raise typer.Exit(1 if problems else 0)


def explain(name: str, trace: str) -> str:
    """What the last line of a failed import means, and what to do."""
    last = trace.strip().splitlines()[-1] if trace.strip() else "no message"
    if "torchvision::nms" in trace or ("torchvision" in name and "undefined symbol" in trace):
        return (
            "torch and torchvision come from different build families (operator torchvision::nms does not exist). "
            "Reinstall both from the same index: pip install --force-reinstall torch torchvision"
        )
    if "pkg_resources" in last:
        return f"{last}. Needs an older setuptools: pip install 'setuptools<81'"
    if "No module named 'autoattack'" in last:
        return (
            f"{last}. The released robustbench needs 'autoattack' but installs 'pyautoattack'; nothing here uses it yet"
        )
    return last


def _imports(module: str, then: str) -> tuple[bool, str]:
    """Import in a process of its own, so that nothing it does stays here."""
    ran = subprocess.run(
        [sys.executable, "-c", f"import {module}; {then}"], capture_output=True, text=True, check=False
    )
    return ran.returncode == 0, ran.stdout.strip() if ran.returncode == 0 else explain(module, ran.stderr)


def _torch() -> tuple[str, bool | None, str]:
    device = "torch.cuda.get_device_name() if torch.cuda.is_available() else f'cpu, {torch.get_num_threads()} threads'"
    return "torch", *_imports("torch", f"print(torch.__version__, {device})")


def _torchvision() -> tuple[str, bool | None, str]:
    return "torchvision", *_imports("torchvision", "print(torchvision.__version__)")


def _extra(module: str) -> tuple[str, bool | None, str]:
    from importlib.util import find_spec

    if find_spec(module) is None:
        return module, None, f"optional: pip install 'adversarial-harness[{EXTRAS[module]}]'"
    works, text = _imports(module, "print('imports')")
    # robustbench is known not to import as released; for the others a failed import is a fault.
    return module, True if works else None if module == "robustbench" else False, text


def _folder(output: Path) -> tuple[str, bool | None, str]:
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=output):
            return "results", True, f"{output} can be written"
    except OSError as error:
        return (
            "results",
            False,
            f"{output} cannot be written ({error.strerror}); choose another with -o or HARNESS_OUTPUT",
        )


def _plugins() -> list[tuple[str, bool | None, str]]:
    registry = options.registry([], [], quiet=True)
    faults = [broken_line(broken) for broken in registry.broken] + registry.clashes()
    if not faults:
        return [("plugins", True, f"{len(registry.loaded)} loaded")]
    return [("plugins", False, fault) for fault in faults]
