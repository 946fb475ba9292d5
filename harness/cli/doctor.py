"""`harness doctor`: is this installation able to work, and what to do where it is not."""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import typer

from harness.cli import options
from harness.registry.registry import broken_line
from harness.version import __version__

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
    """Say what the last line of a failed import means, and what to do."""
    last = trace.strip().splitlines()[-1] if trace.strip() else "no message"
    if "torchvision::nms" in trace or ("torchvision" in name and "undefined symbol" in trace):
        return (
            "torch and torchvision come from different build families (operator torchvision::nms does not exist). "
            "Reinstall both from the same index: pip install --force-reinstall torch torchvision"
        )
    if "pkg_resources" in last:
        return f"{last}. Needs an older setuptools: pip install 'setuptools<81'"
    return last


def explain_robustbench(trace: str) -> str | None:
    """Say why the released robustbench does not import by itself, where that is one of its two known faults.

    None otherwise. Defenses named robustbench/... need neither module, so that nothing is to be done.
    """
    last = trace.strip().splitlines()[-1] if trace.strip() else ""
    faults = {
        "autoattack": "it needs 'autoattack' but installs 'pyautoattack'",
        "pkg_resources": "it needs 'pkg_resources', which setuptools 81 dropped",
    }
    for module, fault in faults.items():
        if last.endswith(f"No module named '{module}'"):
            return f"does not import by itself as released ({fault}); the models robustbench/... load all the same"
    return None


def _import(module: str, then: str) -> subprocess.CompletedProcess[str]:
    """Import a module in a process of its own, so that nothing it does stays here."""
    return subprocess.run(
        [sys.executable, "-c", f"import {module}; {then}"], capture_output=True, text=True, check=False
    )


def _told(module: str, ran: subprocess.CompletedProcess[str]) -> tuple[bool, str]:
    return ran.returncode == 0, ran.stdout.strip() if ran.returncode == 0 else explain(module, ran.stderr)


def _torch() -> tuple[str, bool | None, str]:
    device = "torch.cuda.get_device_name() if torch.cuda.is_available() else f'cpu, {torch.get_num_threads()} threads'"
    told = f"print(torch.__version__, {device}, why() and '- ' + why())"
    return "torch", *_told("torch", _import("torch", f"from harness.networks import why_no_torch_files as why; {told}"))


def _torchvision() -> tuple[str, bool | None, str]:
    return "torchvision", *_told("torchvision", _import("torchvision", "print(torchvision.__version__)"))


def _extra(module: str) -> tuple[str, bool | None, str]:
    from importlib.util import find_spec

    if find_spec(module) is None:
        return module, None, f"optional: pip install 'adversarial-harness[{EXTRAS[module]}]'"
    ran = _import(module, "print('imports')")
    if ran.returncode and module == "robustbench" and (known := explain_robustbench(ran.stderr)):
        return module, True, known
    return module, *_told(module, ran)


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
