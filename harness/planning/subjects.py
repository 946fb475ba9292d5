"""From the names of defenses to subjects: parameters, recipe and network of each, and of the surrogate beside it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from harness.errors import UnknownName, UsageError
from harness.planning.request import Request
from harness.registry.names import format_name, overrides, parse_name, resolve
from harness.registry.registry import Registry
from harness.types import TRAINING_EPS, Architecture, Dataset, Defense, Recipe, Subject, Value

DEFENSE_OWN_NETWORK = "own"
SURROGATE = "raw"
"""The defense whose network, trained with the next seed, transfer attacks craft on."""


def find_recipe(name: str, defense: Defense, dataset: Dataset) -> Recipe | None:
    """Find the named recipe, or the default: the defense's own first one for this dataset, else the dataset's first.

    A defense's `more_recipes` are found by name only. None where nothing is named and there is none.

    Raises:
        UsageError: where there is no recipe of that name.
    """
    own, others = (found.get(dataset.name, ()) for found in (defense.recipes, defense.more_recipes))
    if not name:
        return next(iter((*own, *dataset.recipes)), None)
    offered = (*own, *others, *dataset.recipes)
    for recipe in offered:
        if recipe.name == name:
            return recipe
    names = ", ".join(recipe.name for recipe in offered) or "none"
    raise UsageError(f"no recipe '{name}' for {defense.name} on {dataset.name}; there are: {names}")


def find_subjects(text: str, dataset: Dataset, request: Request, registry: Registry) -> list[Subject]:
    """Find the subjects that one name or glob stands for.

    Raises:
        UsageError: for names, parameters or recipes that cannot be used.
        NothingSelected: where a glob matches nothing.
    """
    name, given = parse_name(text)
    subjects = []
    for asked, entry in registry.match(Defense, name).items():
        defense = entry.spec
        params = resolve("defense", defense.name, defense.params, given)
        recipe = None if defense.load is not None or request.weights else find_recipe(request.recipe, defense, dataset)
        arch_text: str = DEFENSE_OWN_NETWORK
        arch_params: dict[str, Value] = {}
        if defense.load is None:
            template = recipe or find_recipe("", defense, dataset)
            arch_text, arch_params = _network(request.arch or (template.arch if template else ""), defense, registry)
        subjects.append(
            Subject(
                defense=format_name(asked, overrides(defense.params, params)),
                defense_params=_with_eps(defense, params, recipe, dataset),
                arch=arch_text,
                arch_params=arch_params,
                recipe=recipe,
                train_seed=request.train_seed,
                weights=request.weights,
            )
        )
    return subjects


def _network(text: str, defense: Defense, registry: Registry) -> tuple[str, dict[str, Value]]:
    """Resolve the id and the parameters of a network."""
    if not text:
        raise UsageError(f"no network is known for {defense.name} on this dataset: give --arch")
    name, given = parse_name(text)
    arch = registry.get(Architecture, name).spec
    params = resolve("architecture", arch.name, arch.params, given)
    return format_name(arch.name, overrides(arch.params, params)), params


def find_surrogate(subject: Subject, dataset: Dataset, registry: Registry) -> Subject | str:
    """Find what a transfer attack on a subject crafts on, or say why there is nothing."""
    try:
        raw = registry.get(Defense, SURROGATE).spec
    except UnknownName:
        return f"it crafts on a surrogate, and no defense '{SURROGATE}' is installed"
    except UsageError as error:
        return f"it crafts on a surrogate, and {error}"
    recipe = subject.recipe or find_recipe("", raw, dataset)
    if recipe is None:
        return f"it crafts on a surrogate, and {dataset.name} has no recipe to train one"
    own = subject.arch == DEFENSE_OWN_NETWORK
    arch, params = _network(recipe.arch, raw, registry) if own else (subject.arch, dict(subject.arch_params))
    return Subject(
        defense=SURROGATE, defense_params=resolve("defense", SURROGATE, raw.params, {}), arch=arch, arch_params=params,
        recipe=recipe, train_seed=subject.train_seed + 1,
    )  # fmt: skip


def neighbour(
    subject: Subject, defense: str, dataset: Dataset, registry: Registry, eps: float | None = None
) -> Subject:
    """Make the subject of another defense on the same network, with the same recipe and the next seed.

    It is what a training may build on. `eps`: of its inner attack, on the [0, 1] scale, instead of the recipe's; a step
    that the recipe states scales too.
    """
    name, given = parse_name(defense)
    spec = registry.get(Defense, name).spec
    recipe = subject.recipe
    if eps is not None and recipe is not None:
        recipe = _at(recipe, Fraction(str(eps)), dataset)
    params = _with_eps(spec, resolve("defense", name, spec.params, given), recipe, dataset)
    label = format_name(name, overrides(spec.params, params))
    return replace(
        subject, defense=label, defense_params=params, recipe=recipe, train_seed=subject.train_seed + 1, weights=""
    )


def _at(recipe: Recipe, eps: Fraction, dataset: Dataset) -> Recipe:
    """Change the eps of a recipe; a step that it states keeps its share of eps."""
    inner = recipe.inner
    before = inner.eps if inner.eps is not None else dataset.budgets.get("linf")
    step = inner.step * eps / before if inner.step is not None and before else inner.step
    return replace(recipe, inner=replace(inner, eps=eps, step=step))


def _with_eps(
    defense: Defense, params: dict[str, Value], recipe: Recipe | None, dataset: Dataset
) -> dict[str, Value]:  # fmt: skip
    """Fill the eps of the training in, where a defense leaves a parameter to it; see `TRAINING_EPS`.

    Raises:
        UsageError: where there is none.
    """
    eps = recipe.inner.eps if recipe and recipe.inner.eps is not None else dataset.budgets.get("linf")
    deployed = recipe.deploy_eps if recipe and recipe.deploy_eps is not None else eps
    open_ones = {
        name: deployed if name in defense.deployment else eps for name, value in params.items() if value == TRAINING_EPS
    }
    for name, value in open_ones.items():
        if value is None:
            raise UsageError(f"dataset '{dataset.name}' has no linf budget to train with: give {name} a number")
    return params | open_ones
