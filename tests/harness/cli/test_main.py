"""The command line as a user meets it: help, errors, exit codes, what is imported, what is written."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from support.torch_files import REFUSED, refused, told

HEAVY = ("torch", "torchvision", "pandas", "sklearn", "harness_gradient.engine", "harness_aalp.step")


def imported(cli, *arguments):
    """The modules that one command imports, as a process of its own saw them at its end."""
    code = (
        "import sys, atexit, json; sys.argv = ['harness', *sys.argv[1:]];"
        "atexit.register(lambda: print('MODULES', json.dumps(sorted(sys.modules))));"
        "from harness.cli.main import run; run()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cli.folder, capture_output=True, text=True, check=False
    )
    return ran.returncode, set(json.loads(ran.stdout.rpartition("MODULES ")[2])), ran.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["bench", "--help"], 0),
        (["bench", "--defense", "aapl"], 2),
        (["bench", "-d", "aalp", "-a", "pdg"], 2),
        (["bench", "-d", "aalp", "--threat", "linf:8"], 2),
        (["list"], 0),
        (["show", "aalp"], 0),
        (["plugins"], 0),
    ],
)
def test_help_listing_and_mistakes_import_nothing_heavy(cli, arguments, code):
    returned, modules, _ = imported(cli, *arguments)
    assert returned == code
    assert not modules & set(HEAVY)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["bench", "-d", "aapl"], 2, "error: unknown defense 'aapl'. Did you mean: aalp"),
        (["bench", "-d", "aalp", "--attacks", "pgd_10"], 2, "pgd-10"),
        (["bench", "-d", "zz*"], 5, "nothing selected"),
        (["bench"], 2, "--defense"),
        (["bench", "-d", "raw", "--nonsense"], 2, "--nonsense"),
        (["bench", "-d", "raw", "--batch-size", "0"], 2, "--batch-size"),
        (["bench", "-d", "raw", "--device", "tpu9"], 2, "--device tpu9"),
        (["bench", "-d", "raw", "--weights", "absent.safetensors"], 2, "no such file"),
        (["bench", "-d", "raw", "--weights", "absent.pt"], 2, "no such file"),
        (["bench", "-d", "raw", "--dataset", "folder:absent"], 2, "no such folder"),
        (["bench", "-d", "raw", "--progress", "loud"], 2, "--progress"),
        (["bench", "--board", "b", "--limit", "9", "--train-seed", "1"], 2, "leave --limit, --train-seed out"),
        (["bench", "--board", "b"], 2, "b has no board.toml"),
        (["show", "alap"], 2, "aalp"),
        (["list", "defences"], 2, "defenses"),
        (["plugins", "--trace", "none"], 2, "broken plugin"),
        (["leaderboard", "check", "absent"], 1, "no such file"),
        (["leaderboard", "build", "absent"], 1, "no records yet"),
        (["weights", "convert", "absent.pt"], 2, "no such file"),
    ],
)
def test_a_mistake_is_one_message_and_an_exit_code(cli, arguments, code, message):
    ran = cli.run(*arguments)
    assert ran.returncode == code
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr + ran.stdout


def test_both_spellings_of_a_flag_are_accepted(cli):
    for flag in ("--batch-size", "--batch_size"):
        assert "must be at least 1" in cli.run("bench", "-d", "raw", flag, "0").stderr


def test_debug_shows_the_traceback(cli):
    ran = cli.run("--debug", "bench", "-d", "aapl")
    assert "Traceback" in ran.stderr
    assert ran.returncode == 2


def test_a_mistake_leaves_no_files(cli):
    cli.run("bench", "-d", "aapl")
    assert list(cli.folder.iterdir()) == []


def test_listing_names_everything_in_text_and_json(cli):
    text = cli.run("list").stdout
    for name in ("aalp", "pgd-100", "cw_inf-20", "digits", "resnet18", "linf", "extended", "mnist-cpu"):
        assert name in text
    tables = json.loads(cli.run("list", "attacks", "--json").stdout)
    assert {"name": "fgsm", "access": "gradient"}.items() <= next(
        line for line in tables["attacks"] if line["name"] == "fgsm"
    ).items()


def test_show_tells_parameters_choices_and_source(cli):
    text = cli.run("show", "aalp").stdout
    assert re.search(r"version=2 +\w.* \(one of 2, 1\)", text), "what it does, then its choices"
    assert "arXiv:2005.11904" in text
    assert "linf:1/5" in cli.run("show", "digits").stdout
    text = cli.run("show", "tpap").stdout
    assert "  stand_ins    base (static): the network without purification" in text
    assert "  recipes      cifar100, tpap: resnet18, 150 epochs" in text
    assert "eps 12/255" in text
    assert "votes" not in text


def quick(*more):
    """A bench that trains for seconds: `raw` for its 60 epochs of digits takes about five."""
    return ["bench", "-d", "raw", "-a", "fgsm,pgd-10", "--limit", "300", *more]


@pytest.mark.slow
def test_a_bench_prints_a_table_and_writes_what_it_says(cli):
    ran = cli.run(*quick())
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"worst case.*n=300", ran.stdout)
    assert "limited (300 of 500 images)" in ran.stdout
    (run,) = [p.parent for p in (cli.folder / "results").glob("*/run.json")]
    names = {
        "run.json",
        "environment.json",
        "records",
        "attempts",
        "records.jsonl",
        "table.csv",
        "table.md",
        "tmp",
        "witnesses",
    }
    assert {path.name for path in run.iterdir()} <= names
    again = cli.run(*quick())
    assert "weights reused" in again.stderr
    assert "0 shards computed, 4 reused" in again.stderr
    assert again.stdout == ran.stdout
    board = cli.folder / "board"
    assert cli.run("leaderboard", "build", str(board), "--add", str(run)).returncode == 0
    assert cli.run("leaderboard", "check", str(board)).returncode == 0
    (board / "table.md").write_text("better\n")
    checked = cli.run("leaderboard", "check", str(board))
    assert checked.returncode == 4
    assert "table.md does not follow from its records" in checked.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_saves_and_the_same_command_goes_on(cli):
    process = subprocess.Popen(
        cli.command("train", "-d", "pgd_at"), cwd=cli.folder, env=cli.environment(), stderr=subprocess.PIPE, text=True
    )
    while not list(cli.folder.glob("results/checkpoints/*/training.safetensors")):
        assert process.poll() is None
        time.sleep(0.05)  # polls for the first saved epoch
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    ran = cli.run("train", "-d", "pgd_at")
    assert ran.returncode == 0
    assert re.search(r"resuming pgd_at after epoch \d+ of 60", ran.stderr)


@pytest.mark.slow
def test_foreign_weights_are_converted_and_attacked(cli, shared):
    import hashlib

    source = shared / "models" / "mnist_lenet5_advtrained.pt"
    unpinned = cli.run("weights", "convert", str(source), "-o", "w.safetensors")
    if refused(unpinned):
        return
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    assert unpinned.returncode == 2
    assert sha256 in unpinned.stderr
    names = {"conv1.": "layer1.0.", "conv2.": "layer2.0.", "linear1.": "hidden.", "linear2.": "head."}
    renames = [word for old, new in names.items() for word in ("--rename", f"{old}={new}")]
    converted = cli.run("weights", "convert", str(source), "--sha256", sha256, *renames, "-o", "w.safetensors")
    assert converted.returncode == 0, converted.stderr
    given = ["bench", "-d", "pgd_at", "--weights", "w.safetensors", "--arch", "lenet_advertorch", "--dataset", "mnist"]
    ran = cli.run(*given, "--data-root", str(shared / "data"), "-a", "clean,pgd-20", "--limit", "200")
    assert ran.returncode == 0, ran.stderr
    assert "weights given" in ran.stderr
    assert "given weights" in ran.stdout
    robust = float(re.search(r"worst case\s+\S\s+([\d.]+)", ran.stdout)[1])
    assert robust > 80, "the public weights are adversarially trained"


def test_doctor_explains_what_it_knows():
    from harness.cli.doctor import explain

    nms = "Traceback ...\nRuntimeError: operator torchvision::nms does not exist"
    assert "different build families" in explain("torchvision", nms)
    assert "pip install --force-reinstall torch torchvision" in explain("torchvision", nms)
    assert "setuptools<81" in explain("robustbench", "ModuleNotFoundError: No module named 'pkg_resources'")
    assert explain("x", "Traceback\nImportError: other") == "ImportError: other"


def test_doctor_finds_this_installation_whole(cli):
    ran = cli.run("doctor")
    assert ran.returncode == 0, ran.stdout
    for name in ("torch", "torchvision", "results", "plugins"):
        assert re.search(rf"ok\s+{name}\s", ran.stdout)
    assert (REFUSED in ran.stdout) == (told("") == REFUSED)
