"""harness_robustbench: the catalogue is that of the released package; its broken imports stay outside; weights load."""

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.api import CheckpointError, DataError, Dataset, NotApplicable, PluginError, UsageError
from harness.data.dataset import LoadedDataset
from harness_robustbench import harness_defenses, imports
from harness_robustbench.catalogue import BUDGETS, Entry, entries
from harness_robustbench.imports import zoo_loader
from harness_robustbench.loading import load, read_tensors
from harness_robustbench.model_info import (
    ModelInfo,
    format_model_info,
    parse_model_info,
    read_model_info,
    write_model_info,
)
from support.torch_files import REFUSED, refused_before_2_10, told

DEFENSES = {defense.name: defense for defense in harness_defenses()}
KANG = {
    "link": "https://arxiv.org/abs/2110.12976", "name": "Stable Neural ODE", "authors": "Qiyu Kang, Yang Song",
    "additional_data": True, "number_forward_passes": 1, "dataset": "cifar10", "venue": "NeurIPS 2021",
    "architecture": "WideResNet-70-16, Neural ODE block", "eps": "8/255", "clean_acc": "93.73", "reported": "71.28",
    "autoattack_acc": "71.28", "external": "64.20", "unreliable": True, "footnote": "64.20% is due to transfer APGD",
}  # fmt: skip


@pytest.fixture(scope="module")
def installed():
    if importlib.util.find_spec("robustbench") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must not skip what needs robustbench: install the extra 'robustbench'")
        pytest.skip("needs robustbench")


def data(name: str = "cifar10", root: Path = Path("absent"), classes: int = 10, told: str = "") -> LoadedDataset:
    spec = Dataset(name=name, load=lambda *_, **__: None, classes=classes, shape=(3, 32, 32), budgets={})
    return LoadedDataset(spec, told or name, root)


def entry(model: str = "Tiny", files: int = 1, **given) -> Entry:
    sources = tuple(f"https://example.org/{i}" for i in range(files))
    values = {"dataset": "cifar10", "threat": "Linf", "architecture": "", "paper": "", "claims": {}} | given
    return Entry(model=model, sources=sources, **values)


class Tiny(nn.Module):
    """Normalises, then one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, 10)
        self.register_buffer("mu", torch.full((1, 3, 1, 1), 0.5))

    def forward(self, x):
        return self.linear((x - self.mu).flatten(1))


def trained(seed: int = 3) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Tiny().state_dict()


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


# ---- catalogue


def test_names_claims_and_papers_are_those_of_the_readme_that_the_release_carries(installed):
    """Read again by another reader: cells of the README's tables between its headings."""
    text = str(importlib.metadata.metadata("robustbench").get_payload())
    found, dataset = {}, ""
    for line in text.partition("### CIFAR-10")[2].splitlines():
        if match := re.match(r"### (CIFAR-100|ImageNet)", line):
            dataset = match[1].lower().replace("-", "")
        elif match := re.match(r"#### (Linf|L2|(?:Common )?Corruptions)", line):
            threat = "corruptions" if "orruptions" in match[1] else match[1]
        elif match := re.findall(r"\*\*([\w.-]+)\*\*</sup></sub>.*?([\d.]+)%.*?([\d.]+)%.*?<sub>(.*?)</sub>", line):
            model, clean, robust, architecture = match[0]
            found[dataset or "cifar10", threat, model] = float(clean), float(robust), architecture.replace("<br/> ", "")
    ours = {
        (e.dataset, e.threat, e.model): (
            e.claims["clean"],
            e.claims.get("external", e.claims.get("aa_standard", e.claims.get("corruptions"))),
            e.architecture,
        )
        for e in entries()
    }
    assert len(found) > 200
    assert ours == found


@pytest.mark.slow
def test_every_model_of_the_zoo_is_offered_with_its_own_sources(installed):
    with zoo_loader() as loader:
        import timm

        theirs = {}
        for dataset, threats in loader.all_models.items():
            for threat, models in threats.items():
                for model, told in models.items():
                    timm_name = f"{model.lower().replace('-', '_')}_{dataset.value}_{threat.value.lower()}"
                    ids = told["gdrive_id"] if isinstance(told["gdrive_id"], list) else [told["gdrive_id"]]
                    urls = [f"https://drive.google.com/uc?id={file}" for file in ids]
                    if timm.is_model(timm_name):
                        urls = [timm.get_pretrained_cfg(timm_name).url]
                    elif ids == [""]:
                        urls = ["https://download.pytorch.org/models/resnet50-0676ba61.pth"]
                    theirs[dataset.value, threat.value, model] = urls, told.get("preprocessing", "")
    assert {(e.dataset, e.threat, e.model): (list(e.sources), e.preprocessing) for e in entries()} == theirs


def test_a_name_leaves_out_what_robustbench_assumes():
    assert DEFENSES["robustbench/Carmon2019Unlabeled"].claims == {"clean": 89.69, "aa_standard": 59.53}
    assert DEFENSES["robustbench/Standard.L2"].claims == {"clean": 94.78, "aa_standard": 0.0}
    assert "robustbench/Modas2021PRIMEResNet18.cifar100.corruptions" in DEFENSES
    assert len(DEFENSES) == len(entries())


def test_an_evaluation_beyond_autoattack_is_told_apart():
    kang = DEFENSES["robustbench/Kang2021Stable"].claims
    assert kang == {"clean": 93.73, "aa_standard": 71.28, "external": 64.2}
    assert all(e.claims["external"] < e.claims["aa_standard"] for e in entries() if "external" in e.claims)
    assert all(("corruptions" in e.claims) == (BUDGETS[e.dataset, e.threat] == "common corruptions") for e in entries())


def test_listing_imports_neither_torch_nor_robustbench():
    code = (
        "import sys; from harness.cli.main import app; app(['list', 'defenses'], standalone_mode=False);"
        "print('HEAVY', sorted({'torch', 'robustbench', 'timm', 'harness_robustbench.loading'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "robustbench/Carmon2019Unlabeled" in ran.stdout
    assert "HEAVY []" in ran.stdout


# ---- imports


@pytest.fixture
def broken_release(tmp_path, monkeypatch):
    """A package of that name whose top module does not import, like the released one."""
    package = tmp_path / "robustbench"
    package.mkdir()
    (package / "__init__.py").write_text("import autoattack_that_nobody_installs\n")
    (package / "utils.py").write_text("from robustbench.zoo import models\n")
    (package / "zoo.py").write_text("import warnings\nwarnings.warn('old', DeprecationWarning)\nmodels = ['a']\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(imports, "_LOADED", {})
    return package


def ours() -> dict[str, object]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "robustbench"}


def test_the_zoo_imports_where_the_package_does_not(broken_release):
    assert ours() == {}
    with zoo_loader() as loader:
        assert loader.models == ["a"]
        assert set(ours()) == {"robustbench", "robustbench.utils", "robustbench.zoo"}
    assert ours() == {}
    with pytest.raises(ModuleNotFoundError, match="autoattack_that_nobody_installs"):
        importlib.import_module("robustbench")
    with zoo_loader() as again:
        assert again is loader, "a second import would register its networks with timm twice"


def test_a_package_that_is_imported_already_is_left_as_it_was(broken_release, monkeypatch):
    mine = type(sys)("robustbench")
    mine.__spec__ = importlib.util.spec_from_loader("robustbench", None)
    monkeypatch.setitem(sys.modules, "robustbench", mine)
    with zoo_loader():
        assert sys.modules["robustbench"] is not mine
    assert ours() == {"robustbench": mine}


def test_another_missing_module_is_told(broken_release):
    (broken_release / "utils.py").write_text("import absent_library\n")
    with pytest.raises(UsageError, match="does not import: No module named 'absent_library'"), zoo_loader():
        pass
    assert ours() == {}


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'adversarial-harness\[robustbench\]'"):
        load(entry(), data=data())


# ---- what a model is for


@pytest.mark.parametrize(
    ("given", "on", "message"),
    [
        ({}, data("mnist"), r"robustbench/Tiny is a model for cifar10, this is mnist: take --dataset cifar10$"),
        ({}, data("cifar100", classes=100), r"this is cifar100"),
        ({}, data("folder", told="folder:mine"), r"this is folder:mine"),
        ({"dataset": "cifar100"}, data(), r"robustbench/Tiny.cifar100 is a model for cifar100, this is cifar10"),
        (
            {"dataset": "imagenet", "preprocessing": "Res256Crop224"}, data("folder", told="folder:x"),
            r"this is folder:x: take --dataset folder:PATH, ImageNet's 1000 class folders with images by Res256Crop224",
        ),
    ],
)  # fmt: skip
def test_another_dataset_is_refused_in_one_line(given, on, message):
    with pytest.raises(NotApplicable, match=message) as caught:
        load(entry(**given), data=on)
    assert "\n" not in str(caught.value)


def test_a_folder_with_the_classes_of_imagenet_is_imagenet(installed):
    with pytest.raises(CheckpointError, match="are missing"):
        load(entry(dataset="imagenet"), data=data("folder", classes=1000))


def test_missing_weights_are_named_with_place_and_source(installed, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        load(entry(), data=data(root=tmp_path))
    wanted = tmp_path / "robustbench" / "cifar10" / "Linf" / "Tiny.pt"
    assert str(caught.value) == (
        f"weights of robustbench/Tiny are missing; put there: {wanted} from https://example.org/0"
    )
    with pytest.raises(CheckpointError, match=r"Tiny.pt_m1.pt from https://example.org/1"):
        load(entry(files=2), data=data(root=tmp_path))


# ---- loading, by the released package


@pytest.fixture
def zoo(installed, monkeypatch, tmp_path):
    """The released zoo with one more model, and the folder of its weights."""
    with zoo_loader() as loader:
        models = loader.all_models[loader.BenchmarkDataset("cifar10")][loader.ThreatModel("Linf")]
        monkeypatch.setitem(models, "Tiny", {"model": Tiny, "gdrive_id": "some-id"})
    folder = tmp_path / "robustbench" / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "state_dict", "parallel"])
@refused_before_2_10
def test_weights_of_a_small_archive_are_those_of_the_model(zoo, tmp_path, form):
    tensors = trained()
    stored = {
        "plain": tensors,
        "state_dict": {"state_dict": OrderedDict(tensors), "epoch": 3},
        "parallel": {f"module.{name}": tensor for name, tensor in tensors.items()},
    }[form]
    torch.save(stored, zoo / "Tiny.pt")
    model = load(entry(), data=data(root=tmp_path))
    assert not model.training
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    by_hand = (x - 0.5).flatten(1) @ tensors["linear.weight"].T + tensors["linear.bias"]
    torch.testing.assert_close(model(x), by_hand)
    assert ours() == {}


def test_below_torch_2_10_no_file_of_the_zoo_is_read(tmp_path, monkeypatch):
    torch.save(trained(), tmp_path / "Tiny.pt")
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(CheckpointError, match=rf"{REFUSED}.*robustbench's models need torch 2\.10 or newer$"):
        read_tensors(tmp_path / "Tiny.pt")


@pytest.mark.slow
def test_a_pickle_with_code_is_refused_and_its_code_not_run(zoo, tmp_path, monkeypatch):
    torch.save({"state_dict": trained(), "args": Bomb(tmp_path / "ran")}, zoo / "Tiny.pt")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(CheckpointError, match=told("would run code to load")) as caught:
        load(entry(), data=data(root=tmp_path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_web_page_other_tensors_and_a_failing_network_are_told_apart(zoo, tmp_path, monkeypatch):
    (zoo / "Tiny.pt").write_bytes(b"\n<!DOCTYPE html><html>confirm</html>")
    with pytest.raises(CheckpointError, match="this is a web page"):
        load(entry(), data=data(root=tmp_path))
    torch.save({"linear.weight": torch.zeros(10, 7)}, zoo / "Tiny.pt")
    with pytest.raises(CheckpointError, match=told(r"do not fit robustbench/Tiny: .*linear.bias")) as caught:
        load(entry(), data=data(root=tmp_path))
    assert "\n" not in str(caught.value)

    def needs_a_gpu():
        raise RuntimeError("Found no NVIDIA driver")

    with zoo_loader() as loader:
        models = loader.all_models[loader.BenchmarkDataset("cifar10")][loader.ThreatModel("Linf")]
        monkeypatch.setitem(models, "Tiny", {"model": needs_a_gpu, "gdrive_id": "some-id"})
    with pytest.raises(PluginError, match=r"robustbench failed to load it \(RuntimeError: Found no NVIDIA"):
        load(entry(), data=data(root=tmp_path))


@pytest.mark.slow
@refused_before_2_10
def test_foreign_modules_are_as_they_were(zoo, tmp_path):
    import timm.models._builder
    import torchvision.models._api

    torch.save(trained(), zoo / "Tiny.pt")
    with zoo_loader() as loader:
        names = [(loader, "torch"), (loader, "download_gdrive_new")]
        names += [(m, "load_state_dict_from_url") for m in (timm.models._builder, torchvision.models._api)]
        before = [getattr(module, name) for module, name in names]
    load(entry(), data=data(root=tmp_path))
    (zoo / "Tiny.pt").write_bytes(b"junk")
    with pytest.raises(CheckpointError):
        load(entry(), data=data(root=tmp_path))
    assert [getattr(module, name) for module, name in names] == before


@pytest.mark.slow
@refused_before_2_10
def test_what_would_be_downloaded_is_the_local_file(installed, tmp_path):
    """ResNet-50 comes by torchvision's own loader, AlexNet by timm's: both find the files that are put there."""
    import torchvision

    for model, build, threat in (
        ("Standard_R50", torchvision.models.resnet50, "Linf"),
        ("AlexNet", torchvision.models.alexnet, "corruptions"),
    ):
        (found,) = [e for e in entries() if (e.model, e.dataset, e.threat) == (model, "imagenet", threat)]
        file = tmp_path / "robustbench" / "imagenet" / threat / f"{model}.pt"
        file.parent.mkdir(parents=True)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            mine = build(weights=None).eval()
        torch.save(mine.state_dict(), file)
        loaded = load(found, data=data("folder", root=tmp_path, classes=1000))
        x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
        with torch.no_grad():
            torch.testing.assert_close(loaded(x), mine((x - mean) / std), rtol=1e-4, atol=1e-4)


# ---- model_info


def test_model_info_is_numbers_here_and_text_there(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(KANG))
    info = read_model_info(tmp_path / "a.json")
    assert (info.eps, info.clean_acc, info.external) == (Fraction(8, 255), 93.73, 64.2)
    assert (info.additional_data, info.unreliable, info.number_forward_passes) == (True, True, 1)
    assert info.claims() == DEFENSES["robustbench/Kang2021Stable"].claims
    write_model_info(info, tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text()) == KANG


@pytest.mark.parametrize(
    "info",
    [
        ModelInfo(),
        ModelInfo(name="é", eps=Fraction(1, 2), clean_acc=94.8, reported=0.0, unreliable=False),
        ModelInfo(eps=Fraction(31, 1000), clean_acc=200 / 3, rest={"corruptions_acc": "89.60", "odd": None}),
        ModelInfo(eps=Fraction(1, 3), number_forward_passes=2, footnote=""),
    ],
)
def test_what_is_written_is_read_back(info, tmp_path):
    write_model_info(info, tmp_path / "a.json")
    assert read_model_info(tmp_path / "a.json") == info
    told = format_model_info(info)
    assert all(isinstance(told[key], str) for key in ("eps", "clean_acc", "reported") if key in told)


def test_what_their_files_leave_empty_or_store_as_floats_is_understood():
    info = parse_model_info({"eps": 0.03137254901960784, "reported": "", "venue": "N/A", "clean_acc": "58"}, "here")
    assert (info.eps, info.reported, info.venue, info.clean_acc) == (Fraction(8, 255), None, "N/A", 58.0)
    assert parse_model_info({"eps": 0.5}, "here").eps == Fraction(1, 2)
    assert parse_model_info({"eps": None}, "here").eps is None


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "one JSON object"),
        ({"clean_acc": "ninety"}, "here: clean_acc is 'ninety'"),
        ({"clean_acc": "193"}, "clean_acc is '193'"),
        ({"clean_acc": "nan"}, "clean_acc is 'nan'"),
        ({"eps": "8/0"}, "eps is '8/0'"),
        ({"additional_data": "yes"}, "additional_data is 'yes'"),
        ({"number_forward_passes": 1.5}, "number_forward_passes is 1.5"),
        ({"name": 3}, "name is 3"),
    ],
)
def test_what_robustbench_does_not_write_is_refused(found, message):
    with pytest.raises(DataError, match=message):
        parse_model_info(found, "here")


def test_a_file_that_is_no_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("<html>")
    with pytest.raises(DataError, match=r"a\.json: no model_info JSON"):
        read_model_info(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"absent\.json"):
        read_model_info(tmp_path / "absent.json")


# ---- doctor


def test_doctor_says_what_is_broken_and_that_it_is_handled():
    from harness.cli.doctor import explain_robustbench

    for module in ("autoattack", "pkg_resources"):
        told = explain_robustbench(f"Traceback\nModuleNotFoundError: No module named '{module}'\n")
        assert module in told
        assert "load all the same" in told
    assert explain_robustbench("Traceback\nModuleNotFoundError: No module named 'timm'") is None
    assert explain_robustbench("") is None
