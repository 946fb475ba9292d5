"""The public face: everything that a plugin is handed can be named from harness.api, and describing stays light."""

import json
import subprocess
import sys

import pytest
import torch

from harness import api
from harness.api import Analysis, Attack, Defense, Quantity
from support.bench import bench_toy
from support.plugins import Offers, plain_step, toy_registry


def modules_after(code: str) -> list[str]:
    """What a fresh interpreter has loaded after some code."""
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


def test_every_name_is_there_and_nothing_else():
    assert sorted(api.__all__) == dir(api)
    assert len(set(api.__all__)) == len(api.__all__)
    assert all(getattr(api, name) is not None for name in api.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Checkpoint'"):
        _ = api.Checkpoint


def test_tensor_names_are_tensors():
    assert api.Images is api.Labels is api.Logits is api.Flags is torch.Tensor


def test_describing_a_plugin_loads_no_torch():
    heavy = {"torch", "numpy", "pandas", "rich", "torchvision"}
    assert not heavy & set(modules_after("from harness.api import Attack, Defense, hookimpl, lazy"))
    assert "torch" in modules_after("from harness.api import AttackContext")


def handed_to_everything(tmp_path):
    """Run an attack, a training and an analysis that keep what they are handed: name of the type -> its instances."""
    seen = {}

    def keep(**values):
        for name, value in values.items():
            seen.setdefault(name, []).append(value)

    def attack(model, x, y, threat, *, ctx):
        keep(Oracle=model, Images=x, Labels=y, ThreatModel=threat, AttackContext=ctx, Logits=model(x))
        keep(Flags=model(x).argmax(dim=1) != y)
        return api.Result(last=x)

    def step(model, x, y, ctx):
        keep(TrainContext=ctx, LoadedPart=ctx.train, Recipe=ctx.recipe, Peers=ctx.peers)
        keep(PeerAttack=ctx.attack("one_step"), Images=ctx.perturb(model, x, y))
        ctx.on_epoch = lambda report: keep(EpochReport=report)
        return plain_step(model, x, y, ctx)

    def train(model, ctx):
        save = ctx.save_state
        ctx.save_state = lambda state: (keep(SavedState=state), save(state))
        from harness.training import fit

        fit(model, step, ctx, {})

    def load(*, data):
        keep(LoadedDataset=data)
        from harness.conformance import toys

        return toys.tiny_net()

    def analyse(ctx):
        keep(AnalysisContext=ctx, LoadedPart=ctx.test)
        return {"one": Quantity(1.0, 1)}

    offered = Offers(
        Attack(name="keeps", run=attack, threats=("linf",)),
        Defense(name="trains", train=train, uses=("one_step",)),
        Defense(name="loads", load=load),
        Analysis(name="analyses", run=analyse),
    )
    outcome = bench_toy(
        tmp_path,
        toy_registry(offered),
        defenses=["trains", "loads"],
        attacks=["keeps"],
        analyses=["analyses"],
        limit=50,
    )
    assert outcome.failures == []
    keep(Record=outcome.records[0])
    return seen


def test_whatever_a_plugin_is_handed_has_its_name_here(tmp_path):
    seen = handed_to_everything(tmp_path)
    assert {"AttackContext", "TrainContext", "AnalysisContext", "Oracle", "PeerAttack", "EpochReport"} <= set(seen)
    for name, values in seen.items():
        named = getattr(api, name)
        for value in values:
            if name == "Record":
                assert set(value) == {"key", "identity", "outcome"}
            else:
                assert type(value) is named, f"{name} is {type(value)}"


def test_no_public_attribute_of_a_context_has_a_type_without_a_name(tmp_path):
    """A plugin author who annotates what hangs on a context finds that in harness.api, too."""
    seen = handed_to_everything(tmp_path)
    public = {getattr(api, name) for name in api.__all__}
    for name in ("AttackContext", "TrainContext", "AnalysisContext"):
        ctx = seen[name][0]
        for attribute in (a for a in dir(ctx) if not a.startswith("_")):
            value = getattr(ctx, attribute)
            kind = type(value)
            # A network is annotated as torch's Module, whatever its class.
            ours = kind.__module__.partition(".")[0] == "harness" and not isinstance(value, torch.nn.Module)
            assert not ours or kind in public, f"{name}.{attribute} is a {kind.__name__}"
