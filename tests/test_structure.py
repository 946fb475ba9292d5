"""Who may import whom: plugins the public modules only, the core no plugin, and no plugin another.

The names of the plugins stand once, in the entry-point table of pyproject.toml. The layers of the core are a contract
of import-linter, in the same file.
"""

import ast
import re
import tomllib
import zipfile

import grimp
import pytest

from conftest import ROOT

CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
PLUGINS = tuple(CONFIG["project"]["entry-points"]["harness"])
MOST_ROOMS = 24
MOST_LINES = 250


def public_modules() -> set[str]:
    """Those that the README lists."""
    (line,) = re.findall(r"^Public to plugins: (.*)\.$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    return set(re.findall(r"`(harness\.\w+)`", line))


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("harness", *PLUGINS, cache_dir=None)


def violations(graph: grimp.ImportGraph) -> list[str]:
    """Imports between the core and the plugins that must not be."""
    public, found = public_modules(), []
    for module in sorted(graph.modules):
        package = module.split(".")[0]
        for imported in sorted(graph.find_modules_directly_imported_by(module)):
            theirs = imported.split(".")[0]
            if theirs == package or (package in PLUGINS and imported in public):
                continue
            found.append(f"{module} imports {imported}")
    return found


def test_plugins_import_public_modules_and_nothing_imports_plugins(graph):
    assert violations(graph) == []


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("harness_gradient.first_adversarial", "harness.evaluation.judge"),
        ("harness_gradient.first_adversarial", "harness.training.loop"),
        ("harness_gradient", "harness_minimal"),
        ("harness.planning.plan", "harness_gradient"),
    ],
)
def test_a_planted_import_is_found(graph, importer, imported):
    graph.add_import(importer=importer, imported=imported)
    try:
        assert violations(graph) == [f"{importer} imports {imported}"]
    finally:
        graph.remove_import(importer=importer, imported=imported)


def test_public_modules_exist_and_say_what_they_offer():
    import importlib

    for name in public_modules():
        module = importlib.import_module(name)
        assert module.__all__
        assert all(hasattr(module, one) for one in module.__all__)


def test_every_plugin_is_an_entry_point_and_in_the_wheel(tmp_path):
    packages = {path.name for path in (ROOT / "plugins").iterdir() if path.is_dir()}
    assert set(PLUGINS) == packages
    from hatchling.builders.wheel import WheelBuilder

    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as wheel:
        files = wheel.namelist()
    tops = {name.split("/")[0] for name in files if ".dist-info/" not in name}
    assert tops == {"harness", *packages}
    for folder in ("harness", "plugins"):
        sources = {
            str(path.relative_to(ROOT / "plugins" if folder == "plugins" else ROOT))
            for path in (ROOT / folder).rglob("*.py")
        }
        assert sources <= set(files)


def untyped(source: str) -> list[str]:
    """The public functions whose annotations hold `dict[str, Any]`."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        for annotation in [*(argument.annotation for argument in node.args.args + node.args.kwonlyargs), node.returns]
        if annotation is not None and "dict[str, Any]" in ast.unparse(annotation)
    ]


def liberties(source: str) -> list[str]:
    """What code does with a context that it was handed, besides asking it: assigning to it, or reaching through it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("ctx."):
            assigned = isinstance(node.ctx, ast.Store | ast.Del)
            if assigned or ".peers" in ast.unparse(node) or "._" in ast.unparse(node):
                found.append(ast.unparse(node))
    return found


def test_no_plugin_reaches_through_its_context_or_changes_it():
    found = {
        str(path.relative_to(ROOT)): taken
        for path in (ROOT / "plugins").rglob("*.py")
        if (taken := liberties(path.read_text()))
    }
    assert found == {}
    planted = "ctx.eps = 1\nctx.training.examples = 2\nctx.peers.registry.get(x)\nctx.attack('pgd-10')"
    assert set(liberties(planted)) == {
        "ctx.eps", "ctx.peers", "ctx.peers.registry", "ctx.peers.registry.get", "ctx.training.examples",
    }  # fmt: skip


def test_no_untyped_record_crosses_a_module_boundary():
    parameters = {"plain_params", "of_training", "chosen"}
    """What a plugin's own functions are handed, and fields by name: values of any type."""
    found = {name for path in (ROOT / "harness").rglob("*.py") for name in untyped(path.read_text())}
    assert found == parameters
    assert untyped("def keep(record: dict[str, Any]) -> None: ...") == ["keep"]


def test_the_house_is_small():
    rooms = [p for p in (ROOT / "harness").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()]
    assert len(rooms) <= MOST_ROOMS
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in ("harness", "plugins")
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > MOST_LINES and path != ROOT / "harness" / "types.py"
    }
    assert long == {}
