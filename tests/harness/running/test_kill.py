"""kill -9 at random points, then the same command: weights and records equal those of an uninterrupted run."""

import random
import re
import signal
import subprocess

import pytest

pytestmark = pytest.mark.slow

PLUGIN = """
from fractions import Fraction
from harness.api import *
import harness_vision.catalog as catalog
import dataclasses

SHORT = dataclasses.replace(catalog.DIGITS_QUICK, name="short", epochs=8)

@hookimpl
def harness_datasets():
    digits = next(d for d in catalog.DATASETS if d.name == "digits")
    return [dataclasses.replace(digits, name="short-digits", recipes=(SHORT,))]
"""
COMMAND = ["--plugin", "short.py", "--dataset", "short-digits", "--progress", "plain"]


def contents(folder):
    """Weights, cards and records: everything that must not depend on interruptions."""
    kept = [
        *folder.glob("results/checkpoints/*/*"),
        *folder.glob("results/*/records/*/*"),
        *folder.glob("results/*/*.jsonl"),
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept if path.suffix != ".tmp"}


def killed(cli, folder, arguments, ready, choice):
    """Start a command and kill it as soon as `ready(folder)` reaches a random count."""
    process = subprocess.Popen(
        cli.command(*arguments), cwd=folder, env=cli.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and ready(folder) < choice:
        try:
            process.wait(0.005)
        except subprocess.TimeoutExpired:
            continue
    process.send_signal(signal.SIGKILL)
    return process.wait()


def epochs_done(folder):
    """How many epochs the saved training state holds."""
    for path in folder.glob("results/checkpoints/*/training.safetensors"):
        found = re.search(rb'\\"epochs\\": (\d+)', path.read_bytes())
        return int(found[1]) if found else 0
    return 0


def records_done(folder):
    return len(list(folder.glob("results/*/records/*/*.json")))


def prepared(folder):
    folder.mkdir()
    (folder / "short.py").write_text(PLUGIN)
    return folder


def finish(cli, folder, arguments):
    return subprocess.run(
        cli.command(*arguments), cwd=folder, env=cli.environment(), capture_output=True, text=True, check=True
    )


def test_training_and_attacks_survive_kill_9(cli, tmp_path):
    arguments = ["bench", "-d", "pgd_at", "-a", "clean,fgsm,bim,pgd-10,pgd-20,cw_inf-10", *COMMAND]
    whole = prepared(tmp_path / "whole")
    finish(cli, whole, arguments)
    expected = contents(whole)
    stream = random.Random(0)

    training = prepared(tmp_path / "training")
    for epoch in sorted(stream.sample(range(1, 8), 3)):
        assert killed(cli, training, arguments, epochs_done, epoch) == -signal.SIGKILL
    ran = finish(cli, training, arguments)
    assert re.search(r"resuming pgd_at after epoch [1-7] of 8", ran.stderr)
    assert contents(training) == expected

    attacking = prepared(tmp_path / "attacking")
    for count in sorted(stream.sample(range(1, 12), 3)):
        assert killed(cli, attacking, arguments, records_done, count) == -signal.SIGKILL
    before = records_done(attacking)
    ran = finish(cli, attacking, arguments)
    assert "weights reused" in ran.stderr
    assert f"{12 - before} shards computed, {before} reused" in ran.stderr
    assert contents(attacking) == expected
