"""AutoAttack and its four algorithms: the classes of `pyautoattack` (extra `autoattack`) under the harness's driver."""

from collections.abc import Iterable, Mapping

from harness.api import Attack, hookimpl, lazy

STAGES = {
    "aa_standard": ("apgd_ce", "apgd_t", "fab_t", "square"),
    "aa_plus": ("apgd_ce", "apgd_dlr", "fab", "square", "apgd_t", "fab_t"),
    "aa_rand": ("apgd_ce", "apgd_dlr"),
}
"""What runs, in order, each on the images that still stand: the detail `stage` counts these from 1."""

FEW_CLASS_STAGES = {
    2: ("apgd_ce", "apgd_margin", "fab", "square"),
    3: ("apgd_ce", "apgd_dlr", "apgd_margin", "apgd_ce_t", "fab_t", "square"),
    4: ("apgd_ce", "apgd_t", "apgd_ce_t", "fab_t", "square"),
}
"""The same for aa_few_class, by number of classes: the losses that so many logits define."""

AUTOATTACK = "Croce and Hein 2020, arXiv:2003.01690"
APGD = f"{AUTOATTACK}; for l1 Croce and Hein 2021, arXiv:2103.01208"
FAB = "Croce and Hein 2020, arXiv:1907.02044"
SQUARE = "Andriushchenko et al. 2020, arXiv:1912.00049"
NORMS = ("linf", "l2", "l1")
ABOUT = {
    "steps": "iterations of APGD and of FAB",
    "restarts": "runs of each stage without a target class, Square excepted",
    "targets": "target classes of each targeted stage, likeliest first",
    "queries": "queries of Square for each image",
    "restarts_l1": "runs of untargeted APGD under l1",
    "targets_l1": "target classes of targeted APGD under l1; targeted FAB keeps `targets`",
    "eot": "gradients averaged at each point",
    "confirmations": "predictions on each image that is found, most of which must be wrong",
}
STANDARD_ABOUT = {
    "restarts": "runs of untargeted APGD under linf and l2",
    "targets": "target classes of targeted FAB, and of targeted APGD under linf and l2, likeliest first",
}
"""Where aa_standard differs from ABOUT."""
APGD_ABOUT = {
    "steps": "iterations",
    "restarts": "runs, each from its own random start",
    "targets": "target classes, likeliest first",
}
FAB_ABOUT = {**APGD_ABOUT, "restarts": "runs, the first from the image and the others from random points"}
SQUARE_ABOUT = {"queries": "queries for each image and run", "restarts": "runs, each on the images that still stand"}
TRIAL = {"steps": 10, "queries": 50}


def _ensemble(
    name: str, params: Mapping[str, int], trial: Mapping[str, int], *, cost: int, summary: str,
    threats: tuple[str, ...] = NORMS, min_classes: int = 5, max_classes: int | None = None,
    groups: tuple[str, ...] = (), about: Mapping[str, str] = ABOUT,
) -> Attack:  # fmt: skip
    return Attack(
        name=name,
        run=lazy(f"harness_autoattack.attacks:{name.removeprefix('aa_')}"),
        threats=threats,
        params=params,
        about={parameter: about[parameter] for parameter in params},
        min_classes=min_classes,
        max_classes=max_classes,
        aliases=("autoattack",) if name == "aa_standard" else (),
        batch_coupled=True,
        cost=cost,
        trial=trial,
        groups=groups,
        budgets={suite: "linf:8/255" for suite in groups if suite.startswith("paper:")},
        paper=AUTOATTACK,
        summary=summary,
    )


def _component(
    name: str, params: Mapping[str, int], trial: Mapping[str, int], *, cost: int, paper: str, summary: str,
    min_classes: int = 2,
) -> Attack:  # fmt: skip
    square = name == "square"
    about = SQUARE_ABOUT if square else FAB_ABOUT if name.startswith("fab") else APGD_ABOUT
    return Attack(
        name=name,
        run=lazy(f"harness_autoattack.attacks:{name}"),
        threats=NORMS[:2] if name.startswith("apgd") else NORMS,  # alone, APGD misses the exact l1 radius by 1 to 5 %
        access="score" if square else "gradient",
        params=params,
        about={parameter: about[parameter] for parameter in params},
        min_classes=min_classes,
        batch_coupled=True,
        cost=cost,
        trial=trial,
        groups=("all", "blackbox", "linf") if square else ("linf",),
        paper=paper,
        summary=summary,
    )


@hookimpl
def harness_attacks() -> Iterable[Attack]:
    """Offer the ensembles and their components."""
    full = {"steps": 100, "restarts": 1, "targets": 9, "queries": 5000}
    yield _ensemble(
        "aa_standard",
        {**full, "restarts_l1": 5, "targets_l1": 5},
        {**TRIAL, "restarts_l1": 2},
        cost=9700,
        groups=("all", "standard", "linf", "paper:tpap", "paper:ancra"),
        about={**ABOUT, **STANDARD_ABOUT},
        summary="the standard AutoAttack: APGD, targeted APGD, targeted FAB and Square, each on what still stands",
    )
    yield _ensemble(
        "aa_few_class",
        full,
        TRIAL,
        cost=7000,
        min_classes=2,
        max_classes=4,
        groups=("all", "standard", "linf"),
        summary="AutoAttack for two to four classes, with losses that so few logits define",
    )
    yield _ensemble(
        "aa_plus",
        {**full, "restarts": 5},
        {**TRIAL, "restarts": 2},
        cost=17000,
        threats=("linf", "l2"),
        summary="the longer AutoAttack: six stages, five restarts of those without a target",
    )
    yield _ensemble(
        "aa_rand",
        {"steps": 100, "restarts": 1, "eot": 20, "confirmations": 100},
        {"steps": 10, "eot": 2, "confirmations": 5},
        cost=8100,
        threats=("linf", "l2"),
        min_classes=3,
        about={**ABOUT, "steps": "iterations of APGD", "restarts": "runs of each stage, from random starts"},
        summary="AutoAttack for random defenses: mean gradients, and images that most predictions get wrong",
    )
    search, brief = {"steps": 100, "restarts": 1}, {"steps": 10}
    yield _component(
        "apgd_ce", search, {"steps": 20}, cost=202, paper=APGD,
        summary="PGD that sets its own step size, on the cross-entropy",
    )  # fmt: skip
    yield _component(
        "apgd_dlr", search, brief, cost=202, paper=APGD, min_classes=3,
        summary="PGD that sets its own step size, on a difference of logits ratio",
    )  # fmt: skip
    yield _component(
        "apgd_t", {**search, "targets": 9}, brief, cost=1800, paper=APGD, min_classes=4,
        summary="APGD towards each of the nine classes that come next on the clean image",
    )  # fmt: skip
    yield _component(
        "fab", search, {"steps": 20}, cost=1200, paper=FAB,
        summary="steps to the linearised decision boundary and back towards the image",
    )  # fmt: skip
    yield _component(
        "fab_t", {**search, "targets": 9}, {"steps": 20}, cost=2700, paper=FAB,
        summary="FAB towards each of the nine classes that come next on the clean image",
    )  # fmt: skip
    yield _component(
        "square", {"queries": 5000, "restarts": 1}, {"queries": 50}, cost=5000, paper=SQUARE,
        summary="random search with squares of changed pixels, from scores alone",
    )  # fmt: skip
