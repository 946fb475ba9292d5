"""Weights on disk: equal bytes for equal tensors, nothing damaged or foreign goes in, and nothing is ever executed."""

import hashlib
import json
import os
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from harness.errors import CheckpointError
from harness.networks import tensors_sha256, why_no_torch_files
from harness.storage import foreign, weights
from support.torch_files import REFUSED, refused_before_2_10, told

SMALL = {
    "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b.steps": torch.tensor(7),
    "c.half": torch.tensor([0.5, -1.5], dtype=torch.bfloat16),
    "d.flag": torch.tensor([True, False, True]),
    "e.none": torch.zeros(0, 3),
}


def same(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def file_by_hand(tensors, pad_to=None):
    """A safetensors file of float32 tensors, from the description of the format."""
    header, body = {}, b""
    for name, tensor in tensors.items():
        raw = struct.pack(f"<{tensor.numel()}f", *tensor.flatten().tolist())
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * ((pad_to or len(text)) - len(text))
    return struct.pack("<Q", len(text)) + text + body


# write and read


def test_what_is_written_is_read_back_with_its_note(tmp_path):
    path = tmp_path / "new" / "x.safetensors"
    note = {"epochs": 3, "history": [0.1, {"b": 1, "a": None}]}
    found = weights.write(path, SMALL, note)
    assert same(weights.read(path), SMALL)
    assert weights.read_note(path) == note
    assert found == tensors_sha256(SMALL) == tensors_sha256(weights.read(path))
    weights.write(path, SMALL)
    assert weights.read_note(path) is None
    assert [file.name for file in path.parent.iterdir()] == ["x.safetensors"]


def test_the_file_is_safetensors_as_described(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {"b": torch.randn(3, 2), "a": torch.randn(4)}
    path.write_bytes(file_by_hand(tensors))
    assert same(weights.read(path), tensors)
    weights.write(path, tensors)
    assert same(safetensors.torch.load_file(path), tensors)


def test_equal_tensors_have_equal_bytes_whatever_their_order_and_layout(tmp_path):
    forms = set()
    for seed in range(10):
        names = list(SMALL)
        random.Random(seed).shuffle(names)
        tensors = {name: SMALL[name] for name in names}
        tensors["a.weight"] = nn.Parameter(SMALL["a.weight"].t().contiguous().t()) if seed % 2 else SMALL["a.weight"]
        note = dict(random.Random(seed).sample([("x", 1), ("y", 2), ("z", 3)], 3))
        found = weights.write(tmp_path / "x.safetensors", tensors, note)
        forms.add(((tmp_path / "x.safetensors").read_bytes(), found))
    assert len(forms) == 1


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    weights.write(path, SMALL)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"x\.safetensors: " + ("damaged" if length else "the file is empty")):
            weights.read(path)


def test_bytes_left_over_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_by_hand({"a": torch.ones(2)}) + b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        weights.read(path)


def test_no_flipped_bit_gives_the_same_tensors(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor(7)}
    weights.write(path, tensors)
    data, wanted = path.read_bytes(), tensors_sha256(tensors)
    refused = 0
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(changed))
        try:
            assert tensors_sha256(weights.read(path)) != wanted, bit
        except CheckpointError:
            refused += 1
    assert refused > 8 * 64


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"{",
        b'{"a":1}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}',
        b'{"a":{"dtype":"F32","shape":[4611686018427387906],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    ],
)
def test_corrupted_headers_are_refused(tmp_path, header):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(CheckpointError, match="damaged"):
        weights.read(path)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**8, 10**9])
def test_absurd_header_lengths_are_refused(tmp_path, length):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}" + bytes(64))
    with pytest.raises(CheckpointError, match="damaged"):
        weights.read(path)


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><html></html>", b"\n  <html>\n", b'<?xml version="1.0"?><Error/>'])
def test_a_web_page_is_called_one(tmp_path, page):
    path = tmp_path / "x.safetensors"
    path.write_bytes(page)
    with pytest.raises(CheckpointError, match=rf"this is a web page \({len(page)} bytes\), not weights"):
        weights.read(path)


@pytest.mark.parametrize("length", [60, 15392, 60 + 256 * 8])
def test_weights_are_not_called_a_web_page(tmp_path, length):
    # The first bytes of a file are the length of its header: 60 is "<", and 15392 is " <".
    tensors = {"a": torch.ones(2)}
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_by_hand(tensors, pad_to=length))
    assert same(safetensors.torch.load(path.read_bytes()), tensors)
    assert same(weights.read(path), tensors)


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.ckpt", "x.bin", "x"])
def test_other_formats_are_refused_with_the_way_to_convert(tmp_path, name):
    path = tmp_path / name
    torch.save(SMALL, path)
    with pytest.raises(CheckpointError, match=r"only \.safetensors files are loaded") as caught:
        weights.read(path)
    assert f"harness weights convert {path} --sha256" in str(caught.value)


def test_a_pickle_by_the_name_of_safetensors_is_damaged(tmp_path):
    path = tmp_path / "x.safetensors"
    for zipped in (True, False):
        torch.save(SMALL, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match="damaged"):
            weights.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.safetensors: no such file"):
        weights.read(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: b"", lambda d: d.replace(b'"{', b'"x')])
def test_the_note_of_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    weights.write(path, {"a": torch.ones(2)}, {})
    assert weights.read_note(path) == {}
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError):
        weights.read_note(path)


# put


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)


def state(fill=0.25):
    return {
        name: torch.full_like(t, fill) if t.is_floating_point() else t.clone()
        for name, t in Small().state_dict().items()
    }


def test_tensors_that_fit_go_in():
    model = Small()
    weights.put(model, state(), "here")
    assert same(model.state_dict(), state())


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda t: t.pop("a.bias"), ["missing a.bias"]),
        (lambda t: t.update({"fc.weight": torch.ones(1)}), ["unknown fc.weight"]),
        (
            lambda t: t.update({"a.weight": torch.ones(2, 4)}),
            ["a.weight is (2, 4) float32, the network has (2, 3) float32"],
        ),
        (
            lambda t: t.update({"z": t.pop("a.bias"), "norm.bias": torch.ones(1)}),
            ["missing a.bias", "unknown z", "norm.bias is (1,) float32, the network has (2,) float32"],
        ),
        (lambda t: t.clear(), ["missing a.bias, a.weight"]),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_copied(change, parts):
    model, tensors = Small(), state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change(tensors)
    with pytest.raises(CheckpointError, match=r"weights here do not fit Small: .*Is --arch right\?") as caught:
        weights.put(model, tensors, "here")
    assert all(part in str(caught.value) for part in parts)
    assert same(model.state_dict(), before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["a.weight", "norm.running_var"])
def test_values_that_are_not_finite_are_refused(value, name):
    model, tensors = Small(), state()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    tensors[name].view(-1)[-1] = value
    with pytest.raises(CheckpointError, match=f"weights here: {name} holds values that are not finite"):
        weights.put(model, tensors, "here")
    assert same(model.state_dict(), before)


# convert


class Hostile:
    """Unpickling it makes a folder."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def zipped(request):
    return request.param


@pytest.fixture(params=[None, "1"], ids=["", "forced"])
def forced(request, monkeypatch):
    """With and without the variable by which torch is told to unpickle everything."""
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    if request.param:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", request.param)


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("wrap", [lambda h: h, lambda h: {"a": torch.ones(2), "b": h}, lambda h: {"state_dict": [h]}])
def test_code_in_a_pickle_never_runs(tmp_path, zipped, wrap):
    source, target, marker = tmp_path / "x.pt", tmp_path / "x.safetensors", tmp_path / "marker"
    torch.save(wrap(Hostile(marker)), source, _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(source) == zipped
    with pytest.raises(CheckpointError, match=told("would run code to load, which the harness never does")):
        foreign.convert(source, target, sha256(source))
    assert not marker.exists()
    assert not target.exists()
    torch.load(source, weights_only=False)
    assert marker.exists(), "the file does run code when it is let"


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"state_dict": t, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
@refused_before_2_10
def test_a_state_dict_is_converted_and_loads(tmp_path, zipped, wrap, prefix):
    source, target = tmp_path / "x.pt", tmp_path / "x.safetensors"
    tensors = {prefix + name: tensor for name, tensor in state().items()}
    torch.save(wrap(tensors), source, _use_new_zipfile_serialization=zipped)
    found = foreign.convert(source, target, sha256(source).upper())
    assert found == tensors_sha256(state())
    model = Small()
    weights.put(model, weights.read(target), "here")
    assert same(model.state_dict(), state())


@pytest.mark.parametrize("version", ["2.4.0", "2.9.1+cu128", "2.10.0a0+git1"])
@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.th", "x.bin"])
def test_every_torch_file_is_refused_below_2_10_and_not_looked_into(tmp_path, monkeypatch, zipped, version, name):
    source, target = tmp_path / name, tmp_path / "x.safetensors"
    torch.save(state(), source, _use_new_zipfile_serialization=zipped)
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch, "load", None)
    for refuse in (
        lambda: weights.read(source), lambda: foreign.convert(source, target, ""),
        lambda: foreign.convert(source, target, sha256(source)),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=REFUSED) as caught:
            refuse()
        said = str(caught.value)
        assert f"this is {version}: a torch file can run code there" in said
        assert f"Convert it on torch 2.10 or newer: harness weights convert {source} --sha256 HEX" in said
        assert "\n" not in said
    assert not target.exists()


@pytest.mark.parametrize("version", ["2.10.0", "2.10.0+cpu", "2.14.1", "3.0.0"])
def test_from_2_10_on_torch_files_are_read(monkeypatch, version):
    monkeypatch.setattr(torch, "__version__", version)
    assert why_no_torch_files() == ""


def test_another_sha256_is_refused_and_the_true_one_told(tmp_path):
    source, target = tmp_path / "x.pt", tmp_path / "x.safetensors"
    torch.save(state(), source)
    true = sha256(source)
    for stated in ("0" * 64, true[:-1], true[:8], "", true[::-1]):
        with pytest.raises(CheckpointError, match=told(f"sha256 is {true}")):
            foreign.convert(source, target, stated)
    assert not target.exists()


def test_the_sha256_is_looked_at_before_the_content(tmp_path):
    source = tmp_path / "x.pt"
    torch.save(Hostile(tmp_path / "marker"), source)
    with pytest.raises(CheckpointError, match=told("sha256 is")):
        foreign.convert(source, tmp_path / "x.safetensors", "0" * 64)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "content", [torch.ones(2), [torch.ones(2)], 3, {"a": 3}, {"state_dict": torch.ones(2)}, {"a": {"b": 1}}]
)
def test_what_is_no_dictionary_of_tensors_is_refused(tmp_path, content):
    source = tmp_path / "x.pt"
    torch.save(content, source)
    with pytest.raises(CheckpointError, match=told("holds no dictionary of tensors")):
        foreign.convert(source, tmp_path / "x.safetensors", sha256(source))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"), (b"<html>", "this is a web page"), (b"PK\x03\x04", "not a plain state dict"),
        (bytes(100), "not a plain state dict"),
    ],
)  # fmt: skip
def test_foreign_bytes_are_refused(tmp_path, content, said):
    source = tmp_path / "x.pt"
    source.write_bytes(content)
    with pytest.raises(CheckpointError, match=told(said)):
        foreign.convert(source, tmp_path / "x.safetensors", sha256(source))


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.pt: no such file"):
        foreign.convert(tmp_path / "gone.pt", tmp_path / "x.safetensors", "0" * 64)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({1: torch.ones(2)}, id="name is a number"),
        pytest.param({"module.a": torch.ones(2), "a": torch.zeros(2)}, id="two names become one"),
        pytest.param({"a": torch.ones(2).to_sparse()}, id="sparse tensor"),
    ],
)
def test_dictionaries_that_cannot_be_stored_are_refused(tmp_path, content):
    source = tmp_path / "x.pt"
    torch.save(content, source)
    with pytest.raises(CheckpointError):
        foreign.convert(source, tmp_path / "x.safetensors", sha256(source))


@refused_before_2_10
def test_tied_tensors_are_stored_twice(tmp_path):
    source, target = tmp_path / "x.pt", tmp_path / "x.safetensors"
    tied = torch.arange(3.0)
    torch.save({"a": tied, "b": tied}, source)
    foreign.convert(source, target, sha256(source))
    assert same(weights.read(target), {"a": tied, "b": tied.clone()})


# the sha256 over tensors


def test_every_flipped_bit_of_a_tensor_changes_the_sha256():
    seen = {tensors_sha256(SMALL)}
    flips = 0
    for name in ("a.weight", "b.steps", "c.half"):
        size = SMALL[name].numel() * SMALL[name].element_size()
        for bit in range(8 * size):
            raw = SMALL[name].clone().reshape(-1).view(torch.uint8)
            raw[bit // 8] ^= 1 << bit % 8
            changed = raw.view(SMALL[name].dtype).reshape(SMALL[name].shape)
            seen.add(tensors_sha256({**SMALL, name: changed}))
            flips += 1
    assert len(seen) == flips + 1 == 8 * (24 + 8 + 4) + 1


def test_the_sha256_is_over_names_types_shapes_and_bytes():
    a = torch.arange(6, dtype=torch.float32)
    forms = [
        {"a": a},
        {"b": a},
        {"a": a.reshape(2, 3)},
        {"a": a.reshape(3, 2)},
        {"a": a.view(torch.int32)},
        {"a": a.flip(0)},
        {"a": a[:3], "b": a[3:]},
        {"a": a[:2], "b": a[2:]},
        {"a": a, "b": a[:0]},
        {},
    ]
    assert len({tensors_sha256(form) for form in forms}) == len(forms)


def test_the_sha256_by_hand():
    tensors = {"w": torch.tensor([[1.0, -2.0]]), "n": torch.tensor(3)}
    wanted = b"n torch.int64 ()\n" + struct.pack("<q", 3) + b"w torch.float32 (1, 2)\n" + struct.pack("<2f", 1, -2)
    assert tensors_sha256(tensors) == hashlib.sha256(wanted).hexdigest()
    assert tensors_sha256({"w": nn.Parameter(torch.tensor([[1.0], [-2.0]])).t(), "n": tensors["n"]}) == (
        hashlib.sha256(wanted).hexdigest()
    )


def test_weights_from_before_batches_were_counted_fit(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    stored = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    weights.put(model, stored, "old file")
    with pytest.raises(CheckpointError, match=r"missing 1\.running_mean"):
        weights.put(model, {name: tensor for name, tensor in stored.items() if name != "1.running_mean"}, "old file")


# what others save: wrapped, nested, in half precision


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


def under(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor + 1 for name, tensor in net().state_dict().items()}


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = net()


@pytest.mark.parametrize("network", [net, lambda: nn.DataParallel(net()), Wrapped], ids=["bare", "parallel", "wrapped"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "model.", "0.", "backbone."])
def test_names_that_differ_in_a_beginning_alone_fit(network, prefix):
    model, tensors = network(), under(prefix)
    weights.put(model, tensors, "w.safetensors")
    assert all(
        torch.equal(mine, theirs) for mine, theirs in zip(model.state_dict().values(), tensors.values(), strict=True)
    )


@pytest.mark.parametrize(
    "tensors",
    [
        {"2.weight": torch.zeros(2, 4), "2.bias": torch.zeros(2)}, {"a.1.weight": torch.zeros(2, 4)},
        {"a.1.weight": torch.zeros(2, 4), "b.1.bias": torch.zeros(2)}, {**under("a."), **under("b.")},
    ],
    ids=["another layer", "one missing", "two beginnings", "two networks"],
)  # fmt: skip
def test_other_names_do_not_fit(tensors):
    with pytest.raises(CheckpointError, match="do not fit Sequential: missing"):
        weights.put(net(), tensors, "w.safetensors")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_and_double_is_not_narrowed(kind):
    model, tensors = net(), {name: tensor.to(kind) for name, tensor in under("").items()}
    weights.put(model, tensors, "w.safetensors")
    assert all(torch.equal(model.state_dict()[name], tensor.float()) for name, tensor in tensors.items())
    with pytest.raises(CheckpointError, match="float64, the network has"):
        weights.put(model, {name: tensor.double() for name, tensor in under("").items()}, "w.safetensors")


def saved(tmp_path, content) -> Path:
    torch.save(content, tmp_path / "x.pt")
    return tmp_path / "x.pt"


@pytest.mark.parametrize("key", ["net", "model", "model_state_dict", "state_dict"])
@refused_before_2_10
def test_the_one_dictionary_of_tensors_in_a_checkpoint_is_found(tmp_path, key):
    source = saved(tmp_path, {key: under("module."), "optimizer": {"lr": 0.1}, "epoch": 3})
    assert set(foreign.read_foreign(source, sha256(source))) == set(net().state_dict())


@refused_before_2_10
def test_state_dict_is_meant_where_no_other_has_its_names(tmp_path):
    source = saved(tmp_path, {"state_dict": under(""), "optimizer": {"step": torch.tensor(7)}, "epoch": 3})
    assert foreign.read_foreign(source, sha256(source)).keys() == under("").keys()


@pytest.mark.parametrize("average", [under(""), under("module."), {**under("module."), "n_averaged": torch.tensor(3)}])
def test_none_of_two_with_the_same_names_is_chosen_in_silence(tmp_path, average):
    source = saved(tmp_path, {"state_dict": under(""), "ema": average, "epoch": 3})
    said = r"several dictionaries of tensors \(state_dict, ema\).*torch\.save\(torch\.load\('.*\['state_dict'\]"
    with pytest.raises(CheckpointError, match=told(said)):
        foreign.read_foreign(source, sha256(source))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"net": under(""), "ema": under("")}, r"several dictionaries of tensors \(net, ema\); its keys are net, ema"),
        ({"epoch": 3, "args": {"lr": 0.1}}, "no dictionary of tensors; its keys are epoch, args"),
        ([1, 2], "no dictionary of tensors, but a list"),
    ],
)
def test_what_is_there_is_named_where_it_is_not_plain_what_is_meant(tmp_path, content, said):
    source = saved(tmp_path, content)
    with pytest.raises(CheckpointError, match=told(said)):
        foreign.read_foreign(source, sha256(source))


@refused_before_2_10
@pytest.mark.parametrize(
    "number", [np.float64(90.1), np.float32(0.5), np.int64(3), np.bool_(True), np.dtype("float32")]
)
def test_numbers_of_numpy_beside_tensors_run_no_code(tmp_path, number):
    source = saved(tmp_path, {"state_dict": under(""), "best": number})
    assert foreign.read_foreign(source, sha256(source)).keys() == under("").keys()


def test_the_true_reason_why_a_file_is_not_read(tmp_path):
    source = saved(tmp_path, {"state_dict": under(""), "best": np.ones(2)})
    with pytest.raises(CheckpointError, match=told(r"numpy[\w.]* beside tensors.*torch\.save")):
        foreign.read_foreign(source, sha256(source))
    for content, said in (
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>", "this is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
    ):
        source.write_bytes(content)
        with pytest.raises(CheckpointError, match=told(said)):
            foreign.read_foreign(source, sha256(source))
        named = tmp_path / "x.safetensors"
        named.write_bytes(content)
        with pytest.raises(CheckpointError, match=said):
            weights.read(named)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_called_one(tmp_path):
    source = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(source))
    with pytest.raises(CheckpointError, match=told(r"TorchScript archive.*torch\.jit\.load")):
        foreign.read_foreign(source, sha256(source))


@pytest.mark.parametrize("value", [0, 255])
def test_a_damaged_directory_of_an_archive_is_a_refusal_and_no_bug(tmp_path, value):
    source = saved(tmp_path, under(""))
    data, refused = source.read_bytes(), 0
    for place in range(data.find(b"PK\x01\x02"), len(data)):
        source.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
        try:
            foreign.read_foreign(source, sha256(source))
        except CheckpointError:
            refused += 1
    assert refused


def test_safetensors_are_renamed_too(tmp_path):
    source, target = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    weights.write(source, under("old."))
    foreign.convert(source, target, sha256(source), {"old.": "new."})
    assert set(weights.read(target)) == set(under("new."))
