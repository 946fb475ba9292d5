"""A user's sources: whatever a factory loads is part of its name, and what this process loaded before is not."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from harness.data.dataset import LoadedDataset
from harness.errors import UsageError
from harness.models import installed
from harness.models.factory import find_factory
from harness.models.own_model import own_model
from harness.registry.registry import Registry
from harness.types import Dataset, Defense

TOY = Dataset(name="toy", load=lambda *_, **__: None, classes=10, shape=(1, 8, 8), budgets={})
ENTRY = "from arch import Net\n\n\ndef build():\n    return Net()\n"
ARCH = """
import torch
from torch import nn

SHIFT = {shift}


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        self[1].weight.data.fill_(SHIFT)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder that is the current one; what is imported in it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = dict(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - set(before):
        if not name.startswith(("torch", "numpy", "harness", "scipy", "sklearn")):
            del sys.modules[name]


def write(folder, **files):
    """Write files, a `__` of whose name is a folder; `init` is what a package is."""
    for name, text in files.items():
        path = folder / (name.replace("__", "/").replace("/init", "/__init__") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def origin(text: str) -> tuple[str, float]:
    """What records would name, and a number of the network: the first of its weights."""
    model = own_model(text)
    model.check(TOY, 0)
    return model.origin, float(next(model._built.parameters()).flatten()[0])


def in_a_new_process(folder, text: str, first: str = "") -> str:
    code = (
        f"{first}\nfrom harness.models.own_model import own_model\nfrom harness.types import Dataset\n"
        f"model = own_model({text!r})\n"
        "model.check(Dataset(name='toy', load=None, classes=10, shape=(1, 8, 8), budgets={}), 0)\nprint(model.origin)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def test_an_edited_module_that_the_factory_imports_is_another_network_in_one_process(here):
    """The same number of bytes, within the same second: bytecode of the version before would be taken for the new."""
    write(here, entry=ENTRY, arch=ARCH.format(shift=0.5))
    first, weight = origin("entry.py:build")
    assert weight == 0.5
    write(here, arch=ARCH.format(shift=0.7))
    second, weight = origin("entry.py:build")
    assert weight == pytest.approx(0.7)
    assert second != first
    write(here, arch=ARCH.format(shift=0.5))
    assert origin("entry.py:build") == (first, 0.5)


def test_nothing_depends_on_what_ran_before(here):
    text = "entry.py:build"
    write(here, entry=ENTRY, arch=ARCH.format(shift=0.5), unrelated="VALUE = 1\n")
    found = in_a_new_process(here, text)
    assert found == in_a_new_process(here, text, "import sys; sys.path.insert(0, ''); import arch, unrelated")
    sys.path.insert(0, str(here))
    mine = importlib.import_module("arch")
    importlib.import_module("unrelated")
    assert origin(text)[0] == found
    assert origin(text)[0] == found, "and again"
    assert sys.modules["arch"] is mine, "what the process had is put back"


def test_what_the_process_loaded_and_changed_in_memory_decides_nothing(here):
    write(here, entry=ENTRY, arch=ARCH.format(shift=0.5))
    sys.path.insert(0, str(here))
    importlib.import_module("arch").SHIFT = 9.0
    assert origin("entry.py:build")[1] == 0.5


def test_files_named_alike_are_told_apart(here):
    for folder, shift in (("one", 0.1), ("two", 0.2)):
        write(here, **{f"{folder}__entry": ENTRY, f"{folder}__arch": ARCH.format(shift=shift)})
    found = [origin(f"{folder}/entry.py:build") for folder in ("one", "two", "one")]
    assert [round(weight, 6) for _, weight in found] == [0.1, 0.2, 0.1]
    assert found[0] == found[2]
    assert found[0][0] != found[1][0]


def test_a_module_of_the_factory_before_is_not_there_for_the_next(here):
    write(here, one__entry=ENTRY, one__arch=ARCH.format(shift=0.1), two__entry=ENTRY)
    origin("one/entry.py:build")
    with pytest.raises(UsageError, match="No module named 'arch'"):
        own_model("two/entry.py:build")


EDITED = {
    "imported when called": (
        {"entry": "def build():\n    from arch import Net\n    return Net()\n"}, "arch", "entry.py:build",
    ),
    "imported by name": (
        {"entry": "import importlib\n\n\ndef build():\n    return importlib.import_module('arch').Net()\n"},
        "arch", "entry.py:build",
    ),
    "imported two deep": (
        {"entry": "from middle import Net\n\n\ndef build():\n    return Net()\n", "middle": "from arch import Net\n"},
        "arch", "entry.py:build",
    ),
    "in a package": (
        {"pkg__init": "", "pkg__entry": "from .arch import Net\n\n\ndef build():\n    return Net()\n"},
        "pkg__arch", "pkg.entry:build",
    ),
    "in a sub-package, relative": (
        {"pkg__init": "", "pkg__sub__init": "",
         "pkg__sub__entry": "from ..arch import Net\n\n\ndef build():\n    return Net()\n"},
        "pkg__arch", "pkg.sub.entry:build",
    ),
    "a package's own init": (
        {"pkg__entry": "from pkg import Net\n\n\ndef build():\n    return Net()\n"}, "pkg__init", "pkg.entry:build",
    ),
    "beside a package": (
        {"pkg__init": "", "pkg__entry": ENTRY}, "arch", "pkg.entry:build",
    ),
    "in a namespace package": ({"space__entry": "from space.arch import Net\n\n\ndef build():\n    return Net()\n"},
                               "space__arch", "space.entry:build"),
    "put on the path by the factory": (
        {"entry": "import sys\nsys.path.insert(0, 'lib')\nfrom arch import Net\n\n\ndef build():\n    return Net()\n"},
        "lib__arch", "entry.py:build",
    ),
    "above the file": (
        {"deep__entry": "import sys\nsys.path.append('.')\nfrom arch import Net\n\n\ndef build():\n    return Net()\n"},
        "arch", "deep/entry.py:build",
    ),
    "imported by a forward": (
        {"entry": ENTRY, "arch": ARCH.format(shift=0.5) + "\n    def forward(self, x):\n        import late\n"
         "        return super().forward(x) + late.SHIFT\n"}, "late", "entry.py:build",
    ),
    "loaded from its file": (
        {"entry": "import importlib.util\nspec = importlib.util.spec_from_file_location('other', 'arch.py')\n"
         "other = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(other)\n\n\ndef build():\n"
         "    return other.Net()\n"}, "arch", "entry.py:build",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITED)
def test_an_edit_anywhere_in_what_is_loaded_is_another_network(here, case):
    files, edited, text = EDITED[case]
    write(here, **files, **({} if edited in files else {edited: ARCH.format(shift=0.5)}))
    first, _ = origin(text)
    assert origin(text)[0] == first
    write(here, **{edited: ARCH.format(shift=0.9) if edited != "late" else "SHIFT = 3\n"})
    second, _ = origin(text)
    assert second != first
    (here / "nothing_to_do_with_it.py").write_text("1 / 0\n")
    assert origin(text)[0] == second


def test_an_environment_inside_the_folder_is_not_the_users_code(here):
    write(
        here,
        entry="import other\nfrom arch import Net\n\n\ndef build():\n    return Net()\n",
        arch=ARCH.format(shift=1),
    )
    environment = here / ".venv" / "lib" / "site-packages"
    write(environment, other="VALUE = 1\n")
    sys.path.append(str(environment))
    first, _ = origin("entry.py:build")
    write(environment, other="VALUE = 2 + 2\n")
    assert origin("entry.py:build")[0] == first
    assert set(own_model("entry.py:build").factory.sources.sha256) == {"own_model_entry", "arch"}


def test_of_an_installed_distribution_every_file_counts_whether_loaded_or_not(here, monkeypatch):
    packages = here / "lib" / "site-packages"
    write(packages, shop__entry="def build():\n    from shop.arch import Net\n    return Net()\n",
          shop__arch=ARCH.format(shift=0.5), shop__init="")  # fmt: skip
    folder = here / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    sys.path.append(str(packages))
    first, _ = origin("shop.entry:build")
    importlib.import_module("shop.arch")
    assert origin("shop.entry:build")[0] == first
    write(packages, shop__arch=ARCH.format(shift=0.6))
    assert own_model("shop.entry:build").origin != first


def test_a_package_that_is_installed_editable_is_the_users_own(here, monkeypatch):
    """Its folder is on the path by a file of the installation; it is loaded from there, and may be edited there."""
    write(here, src__shop__init="", src__shop__entry=ENTRY.replace("arch", "shop.arch"),
          src__shop__arch=ARCH.format(shift=0.5), src__beside="VALUE = 1\n")  # fmt: skip
    monkeypatch.setattr(installed, "_listed", lambda: frozenset({str(here / "src")}))
    installed.is_installed.cache_clear()
    folder = here / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    sys.path.append(str(here / "src"))
    first, _ = origin("shop.entry:build")
    write(here, src__shop__arch=ARCH.format(shift=0.7))
    second, weight = origin("shop.entry:build")
    assert weight == pytest.approx(0.7)
    assert second != first
    write(here, src__beside="VALUE = 2\n")
    assert origin("shop.entry:build")[0] == second
    installed.is_installed.cache_clear()


def test_where_only_loading_tells_the_shape_what_is_imported_then_counts(here):
    """A folder of images says its shape late; the network is built when it is deployed, before any record is named."""
    files, _, text = EDITED["imported when called"]
    write(here, **files, arch=ARCH.format(shift=0.5))
    model = own_model(text)
    entry = model.join(Registry([])).get(Defense, model.name)
    known = entry.provider.origin
    entry.spec.load(data=LoadedDataset(replace(TOY, shape=(1, 8, 8)), "toy", None))
    assert entry.provider.origin == model.origin != known
    assert origin(text)[0] == model.origin


def test_the_standard_library_and_torch_are_left_as_they_are(here):
    write(here, entry=ENTRY, arch=ARCH.format(shift=0.5))
    kept = {name: sys.modules[name] for name in ("json", "torch", "torch.nn", "harness.errors", "numpy")}
    origin("entry.py:build")
    assert all(sys.modules[name] is module for name, module in kept.items())
    assert find_factory("torch.nn:Identity").identity


def test_an_edited_module_is_measured_again_from_the_command_line(cli):
    """Case 01: the same command after an edit answered the old number."""
    write(cli.folder, entry=ENTRY, arch=ARCH.format(shift=0.5))
    command = ("bench", "--model", "entry.py:build", "--attacks", "clean", "--limit", "20", "-o", "out")
    assert "1 shards computed, 0 reused" in cli.run(*command).stderr
    assert "0 shards computed, 1 reused" in cli.run(*command).stderr
    write(cli.folder, arch=ARCH.format(shift=0))
    assert "1 shards computed, 0 reused" in cli.run(*command).stderr
    origins = {
        json.loads(line)["identity"]["defense_origin"]
        for file in cli.folder.glob("out/*/records.jsonl")
        for line in file.read_text().splitlines()
    }
    assert len(origins) == 2
