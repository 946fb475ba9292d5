"""Discovery: what fails is set aside and named, what clashes is unusable until qualified, the rest goes on."""

import types

import pytest

from harness.api import Attack, Defense, hookimpl, lazy
from harness.errors import NothingSelected, PluginError, UnknownName, UsageError
from harness.registry.discovery import discover, load
from harness.registry.registry import Broken, Loaded, Provider
from support.plugins import toy_registry


def module(**functions):
    made = types.ModuleType("made")
    for name, function in functions.items():
        setattr(made, name, hookimpl(function))
    return made


def still(model, x, y, threat):
    return x


def attack(name):
    return Attack(name=name, run=still, threats=("linf",))


def loaded(importer):
    return load(Provider("p", "dist-p", "1.0"), importer)


def test_a_working_plugin_offers_its_specs():
    plugin = loaded(lambda: module(harness_attacks=lambda: [attack("one")]))
    assert isinstance(plugin, Loaded)
    assert [spec.name for spec in plugin.offers] == ["one"]


@pytest.mark.parametrize(
    ("importer", "reason"),
    [
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: __import__("no_such_module"), "ModuleNotFoundError: No module named 'no_such_module'"),
        (lambda: (_ for _ in ()).throw(SystemExit(3)), "SystemExit"),
        (lambda: module(harness_atacks=lambda: []), "'harness_atacks' is no hook; the hooks are harness_attacks"),
        (lambda: module(harness_attacks=lambda registry: []), "Argument"),
        (lambda: module(harness_attacks=lambda: [1]), "must return Attack values, not int"),
        (lambda: module(harness_attacks=lambda: [Defense(name="d")]), "must return Attack values, not Defense"),
        (lambda: module(harness_attacks=lambda: [attack("a[b]")]), "cannot be a name"),
        (lambda: module(harness_attacks=lambda: [attack("../up")]), "cannot be a name"),
        (lambda: module(harness_attacks=lambda: [attack("a (b)")]), "cannot be a name"),
        (lambda: module(harness_defenses=lambda: [Defense(name="a (b c)")]), "cannot be a name"),
        (lambda: module(harness_defenses=lambda: [Defense(name="a (b")]), "cannot be a name"),
        (lambda: module(harness_attacks=lambda: 1 / 0), "ZeroDivisionError"),
    ],
)
def test_whatever_goes_wrong_makes_only_that_plugin_broken(importer, reason):
    plugin = loaded(importer)
    assert isinstance(plugin, Broken)
    assert reason in plugin.reason
    assert "Traceback" in plugin.trace


def test_a_name_offered_twice_names_both_and_is_usable_qualified():
    registry = toy_registry(module(harness_attacks=lambda: [attack("one_step"), attack("mine")]))
    (clash,) = registry.clashes()
    assert "one_step" in clash
    assert "dist-toys" in clash
    assert "dist-other0" in clash
    with pytest.raises(UsageError, match="provided twice"):
        registry.get(Attack, "one_step")
    assert registry.get(Attack, "other0/one_step").spec.run is still
    assert registry.get(Attack, "dist-toys/one_step").spec.run is not still
    assert registry.get(Attack, "mine").spec.name == "mine"
    assert "one_step" not in [entry.spec.name for entry in registry.entries(Attack)]


def test_an_unknown_name_is_answered_with_the_nearest_and_what_failed():
    registry = toy_registry(types.SimpleNamespace(harness_attacks=None))
    broken = loaded(lambda: __import__("no_such_module"))
    registry.broken.append(broken)
    with pytest.raises(UnknownName) as error:
        registry.get(Attack, "onestep")
    assert "Did you mean: one_step?" in str(error.value)
    assert "no_such_module" in str(error.value)
    assert error.value.exit_code == 2


def test_globs_match_or_say_that_they_do_not():
    registry = toy_registry()
    assert list(registry.match(Attack, "one*")) == ["one_step"]
    with pytest.raises(NothingSelected, match="matched 0 of"):
        registry.match(Attack, "zzz*")


def test_a_failing_observer_is_reported_and_others_still_see_the_record():
    seen = []
    good = module(harness_record=lambda record: seen.append(record))
    bad = module(harness_record=lambda record: 1 / 0)
    lines = toy_registry(bad, good).observe({"key": "k"})
    assert seen == [{"key": "k"}]
    assert len(lines) == 1
    assert "ZeroDivisionError" in lines[0]


def test_the_installed_plugins_load_and_can_be_left_out():
    registry = discover()
    assert {"aalp", "raw", "pgd_at", "alp"} <= {entry.spec.name for entry in registry.entries(Defense)}
    without = discover(without=["harness_aalp"])
    assert "aalp" not in {entry.spec.name for entry in without.entries(Defense)}
    with pytest.raises(UnknownName):
        discover(without=["harness_nothing"])


def test_a_plugin_file_joins_and_a_missing_or_broken_one_is_an_error(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from harness.api import Attack, hookimpl\n"
        "@hookimpl\n"
        "def harness_attacks():\n"
        "    return [Attack(name='from_file', run=lambda model, x, y, threat: x, threats=('linf',))]\n"
    )
    first = discover(files=[path]).get(Attack, "from_file").provider
    assert first.distribution == "mine.py"
    path.write_text(path.read_text() + "# edited\n")
    assert discover(files=[path]).get(Attack, "from_file").provider.origin != first.origin
    with pytest.raises(PluginError, match=r"absent\.py: .*no such Python file"):
        discover(files=[path, tmp_path / "absent.py"])
    (tmp_path / "bad.py").write_text("def (")
    with pytest.raises(PluginError, match=r"bad\.py: SyntaxError"):
        discover(files=[tmp_path / "bad.py"])
    (tmp_path / "json.py").write_text("")
    with pytest.raises(PluginError, match="installed module is called json"):
        discover(files=[tmp_path / "json.py"])


def test_lazy_imports_on_the_first_call_only():
    function = lazy("fractions:Fraction")
    assert function(1, 2) == __import__("fractions").Fraction(1, 2)
    with pytest.raises(ModuleNotFoundError):
        lazy("no_such_module:f")()
