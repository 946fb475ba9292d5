"""What decides a network's answers besides its weights makes another identity; what does not, does not."""

import importlib
import linecache
import shutil
import sys
import threading
import types
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from harness.models.fingerprint import fingerprint


class Net(nn.Module):
    """The same weights each time, and whatever else it is given as attributes."""

    def __init__(self, **attributes):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.inner = nn.Linear(4, 2)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.inner(x)


def buffered(value):
    net = Net()
    net.register_buffer("shift", torch.full((1,), value), persistent=False)
    return net


def hooked(sign):
    net = Net()
    net.register_forward_hook(lambda module, inputs, output: sign * output)
    return net


def patched(sign):
    net = Net()
    net.forward = lambda x: sign * net.inner(x)
    return net


def scaled(sign, x):
    return sign * x


def closing(sign):
    return lambda shape: Net(sign=sign)


OTHERS = {
    "number": (lambda v: Net(a=v), 0.0, 0.9), "tuple": (lambda v: Net(mean=(v,)), 0.0, 0.9),
    "list in a dict": (lambda v: Net(a={"mean": [v]}), 0.0, 0.9), "set": (lambda v: Net(a={v, 7}), 1, 2),
    "tensor": (lambda v: Net(mean=torch.full((1,), v)), 0.0, 0.9), "array": (lambda v: Net(m=np.full(2, v)), 0.0, 0.9),
    "buffer in no state dict": (buffered, 0.0, 0.9), "hook": (hooked, 1, -1), "forward of its own": (patched, 1, -1),
    "modules in a list": (lambda v: Net(a=[v()]), nn.ReLU, nn.GELU),
    "torch's function": (lambda v: Net(a=v), torch.relu, torch.tanh),
    "function of torch.nn": (lambda v: Net(a=v), functional.relu, functional.gelu),
    "lambda": (lambda v: Net(a=v), lambda x: x, lambda x: -x), "partial": (lambda v: Net(a=partial(scaled, v)), 1, -1),
    "what a factory closes over": (closing, 1, -1), "type": (lambda v: Net(a=v), nn.ReLU, nn.Tanh),
    "object": (lambda v: Net(a=types.SimpleNamespace(v=v)), 1, 2),
}  # fmt: skip


@pytest.mark.parametrize(("make", "one", "other"), OTHERS.values(), ids=OTHERS)
def test_another_answer_is_another_identity(make, one, other):
    assert fingerprint(make(one)) == fingerprint(make(one))
    assert fingerprint(make(one)) != fingerprint(make(other))


def test_weights_and_modes_are_not_part_of_it():
    moved = Net()
    moved.inner.weight.data += 1
    assert fingerprint(Net()) == fingerprint(moved) == fingerprint(Net().train()) == fingerprint(Net().eval())
    used = Net()
    used(torch.zeros(1, 4)).sum().backward()
    assert fingerprint(used) == fingerprint(Net())


def test_what_cannot_be_read_is_never_the_same():
    assert fingerprint(Net(lock=threading.Lock())) != fingerprint(Net(lock=threading.Lock()))


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("part", [closing, lambda v: Net(mean=(v,)), hooked], ids=["closures", "attributes", "hooks"])
def test_every_part_of_several_counts(part, place):
    """Descriptions come and go on the way; none may be taken for one that was there before."""

    def several(changed):
        return Net(parts=[part(0.5 if i == place and changed else 1.0) for i in range(6)])

    assert fingerprint(several(False)) == fingerprint(several(False))
    assert fingerprint(several(False)) != fingerprint(several(True))


class Shy(nn.Module):
    def extra_repr(self):
        raise RuntimeError("do not look at me")


def test_what_raises_when_it_is_looked_at_is_never_the_same_either():
    assert fingerprint(Shy()) != fingerprint(Shy())


def session(monkeypatch, body, globe="nn.ReLU"):
    """What an interactive session defines: cells without a file, which linecache remembers."""
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    typed = f"""
class Typed(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(4, 2)

    def forward(self, x):
        return {body}

def build():
    return nn.Sequential(nn.Linear(4, 2), ACT())
"""
    cells = [f"import torch\nfrom torch import nn\nACT = {globe}\n", typed]
    for i, text in enumerate(cells):
        name = f"<ipython-input-{i}>"
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        exec(compile(text, name, "exec"), main.__dict__)
    return main


def test_a_class_that_is_typed_again_is_another_one(monkeypatch):
    def identity(*told):
        main = session(monkeypatch, *told)
        return fingerprint(main.Typed()), fingerprint(main.build)

    assert identity("self.l(x)") == identity("self.l(x)")
    assert identity("self.l(x)")[0] != identity("self.l(x.flip(1))")[0]
    assert identity("self.l(x)", "nn.ReLU")[1] != identity("self.l(x)", "nn.Tanh")[1], (
        "a name that the factory looks up"
    )


def test_the_source_of_a_class_is_part_of_it(tmp_path, monkeypatch):
    """One class of one name, whose file says something else."""
    monkeypatch.syspath_prepend(tmp_path)

    def identity(sign):
        (tmp_path / "edited.py").write_text(
            f"from torch import nn\n\n\nclass Sign(nn.Module):\n    def forward(self, x):\n        return {sign}x\n"
        )
        sys.modules.pop("edited", None)
        import edited

        return fingerprint(edited.Sign())

    assert identity("") == identity("")
    assert identity("") != identity("-")


# What a file rests on.


NET = """
from torch import nn

import helping


class Net(nn.Module):
    def forward(self, x):
        {}return helping.f(x)


def build():
    return Net()
"""
HELPS = "SHIFT = {}\n\n\ndef f(x):\n    return x * {}\n"


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Write `netting`, which imports `helping`; both are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("netting", "helping", "late"):
        sys.modules.pop(name, None)


def loaded(folder, shift=1, factor=2, more=""):
    """The network, and what builds it, of modules that are imported as they are now."""
    (folder / "netting.py").write_text(NET.format(more))
    (folder / "helping.py").write_text(HELPS.format(shift, factor))
    for name in ("netting", "helping", "late"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    return importlib.import_module("netting")


def both(module):
    return fingerprint(module.Net()), fingerprint(module.build)


def test_a_module_that_the_file_of_a_class_imports_is_part_of_it(modules):
    first = both(loaded(modules))
    assert both(loaded(modules)) == first
    other = both(loaded(modules, factor=3))
    assert all(one != two for one, two in zip(first, other, strict=True))


def test_one_that_is_imported_when_it_is_called_counts_before_and_after(modules):
    (modules / "late.py").write_text("VALUE = 1\n")
    module = loaded(modules, more="import late; ")
    first = both(module)
    importlib.import_module("late")
    assert both(module) == first
    (modules / "late.py").write_text("VALUE = 2\n")
    assert both(loaded(modules, more="import late; ")) != first


def test_files_that_were_edited_since_they_were_loaded_are_not_what_runs(modules):
    module = loaded(modules)
    first = both(module)
    for edited in ({"factor": 3}, {"shift": 5}):
        text = HELPS.format(edited.get("shift", 1), edited.get("factor", 2))
        (modules / "helping.py").write_text(text)
        stale = both(module)
        fresh = both(loaded(modules, **edited))
        assert len({first[0], stale[0], fresh[0]}) == len({first[1], stale[1], fresh[1]}) == 3
        module = loaded(modules)
        assert both(module) == first


def test_a_constant_that_was_set_in_memory_counts(modules):
    module = loaded(modules)
    first = both(module)
    sys.modules["helping"].SHIFT = 9
    changed = both(module)
    assert changed[0] != first[0]
    assert changed[1] != first[1]
