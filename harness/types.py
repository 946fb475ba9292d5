"""The nouns: frozen values that plugins describe themselves with and that the harness passes along.

Standard library only, so that describing what is installed imports neither torch nor numpy. Tensors appear in
annotations only: `Images` (n, c, h, w) float32 in [0, 1], `Labels` (n,) int64, `Logits` (n, k), `Flags` (n,) bool.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from harness.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch

    Images: TypeAlias = torch.Tensor
    Labels: TypeAlias = torch.Tensor
    Logits: TypeAlias = torch.Tensor
    Flags: TypeAlias = torch.Tensor

Value: TypeAlias = bool | int | float | Fraction | str | None
Defaults: TypeAlias = "Mapping[str, Value | OneOf]"
Access: TypeAlias = Literal["gradient", "score", "decision"]
Need: TypeAlias = Literal["surrogate", "train_images", "features"]

Knowledge: TypeAlias = Literal["static", "transfer", "adaptive", "blackbox"]

FROM_DATASET = "dataset"
"""As the default of an attack's `step` parameter: the planner puts in the dataset's step for the budget in force."""
TRAINING_EPS = "training eps"
"""As the default of a defense's parameter: the planner puts in the eps that its network is trained with, or, for a
parameter of deployment, the recipe's `deploy_eps` where it has one."""


_NUMBER = re.compile(r"[+-]?(\d+/\d+|(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?)")


def parse_number(text: str) -> Fraction | None:
    """Read `8/255`, `0.03` or `1e-3` exactly; None for anything else, or an exponent of more than two digits."""
    if not _NUMBER.fullmatch(text.strip()):
        return None
    try:
        return Fraction(text.strip())
    except ZeroDivisionError:
        return None


def format_budget(eps: Fraction) -> str:
    """Write a budget as papers do: in 255ths where it is a fraction of 255 that nobody would shorten."""
    return f"{eps * 255}/255" if eps.denominator in (51, 85, 255) else str(eps)


@dataclass(frozen=True, slots=True)
class OneOf:
    """As the default of a parameter: the values it may take, the default first. Others are refused when planning.

    `later`: the parameter came after results of its plugin were recorded. At its default it is left out of resolved
    parameters, and so of every key; the function that takes it has the same default.
    """

    values: tuple[Value, ...]
    later: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreatModel:
    """What an attacker may do: a kind and an exact budget, written `linf:8/255`.

    `eps` is on the [0, 1] pixel scale for norms. 8/255 and 0.031 are two different budgets. `none` and `unbounded`
    carry no budget.
    """

    kind: str
    eps: Fraction | None = None

    @classmethod
    def parse(cls, text: str) -> ThreatModel:
        """Read `kind:eps` with a fraction or a decimal number, or a bare kind.

        Raises:
            UsageError: where the budget is negative or no number.
        """
        kind, colon, budget = text.strip().partition(":")
        eps = parse_number(budget) if colon else None
        if not kind or (colon and eps is None):
            raise UsageError(f"'{text}' is no threat model: write kind:eps, as in linf:8/255 or linf:0.03")
        if eps is not None and eps < 0:
            raise UsageError(f"'{text}': a budget cannot be negative")
        return cls(kind=kind, eps=eps)

    @property
    def radius(self) -> float:
        """The budget as a float, for arithmetic on tensors; what an attack under a kind with a budget works with.

        Raises:
            UsageError: where there is no budget.
        """
        if self.eps is None:
            raise UsageError(f"'{self.kind}' has no budget")
        return float(self.eps)

    def __str__(self) -> str:
        return self.kind if self.eps is None else f"{self.kind}:{format_budget(self.eps)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreatKind:
    """A family of threat models and the code that checks membership.

    `distance(x, x_adv, evidence)` gives float64 (n,), in the unit of `eps`. `verify(x, x_adv, eps, evidence)` gives
    Flags; it computes in float64, is true only for images proven inside, and treats what is not finite as outside.

    Args:
        bounded: it has a budget; the others are reported with their distances and never ranked.
        box: images must lie in [0, 1]; only kinds that reproduce a publication do without, and are never ranked.
        budget_of: the kind whose budgets of the datasets it shares, where it has none of its own.
        trial: the budget at which contract tests attack random 8x8 images.
    """

    name: str
    distance: Callable[..., torch.Tensor]
    verify: Callable[..., Flags]
    bounded: bool = True
    box: bool = True
    budget_of: str = ""
    trial: Fraction | None = None
    summary: str = ""


@dataclass(slots=True, kw_only=True)
class Result:
    """The images that an attack returns. The harness judges `last` and `any` itself.

    `last`: the final images. `any`: for each example the first adversarial iterate, the first point inside the threat
    model that is misclassified, or the clean image where there is none. `evidence`: what the threat model's verifier
    needs for `last`; `any_evidence`: the same for `any`, by default that of `last`. `details`: name -> one number for
    each example (n,), recorded as the attack tells it. `snapshots`: for attacks with a prefix parameter, its value ->
    Result.
    """

    last: Images
    any: Images | None = None
    evidence: Any = None
    any_evidence: Any = None
    details: Mapping[str, torch.Tensor] = field(default_factory=dict)
    snapshots: Mapping[int, Result] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attack: `run(model, x, y, threat, *, ctx, **params)` returns images or a `Result`.

    Args:
        name: as users type it, for example `pgd-10`.
        run: a function, or `lazy("package.module:function")`. It must not keep state, print or change its inputs.
        threats: the kinds it can keep to, preferred first; `none` for attacks that do not perturb.
        access: what it may learn from the model; the oracle enforces it.
        params: parameter -> default (a number, text or `OneOf`). `FROM_DATASET` for `step` is filled in when planning.
        about: parameter -> what it does, in a few words, for `harness show`.
        prefix: the parameter in which shorter runs are prefixes of longer ones; needs `Result.snapshots`.
        minimal: seeks the smallest perturbation and ignores `eps`; its first threat kind with a budget is the default.
        needs: what it takes from `ctx` beyond noise: a `surrogate` network, `train_images`, `features` of the model.
        only_against: the defenses that it is written against; it is not applicable to others.
        min_classes, max_classes: it is not applicable to datasets with fewer, or more, classes.
        aliases: other names under which it can be asked for; records use `name`.
        batch_coupled: its draws or its search couple the images of a batch, so that it always gets the whole shard.
        verdicts_only: it amplifies float rounding, so that batches of other sizes agree in verdicts, not in images.
        cost: about how many forward and backward passes an image takes; cells run in this order.
        trial: parameters, where they differ from the defaults, at which contract tests run it within seconds.
        as_published: reproduces a publication with its defects; its numbers carry a flag that says so.
        defect: why it must not be used, as measured; it is listed and never runs.
        groups: suites that include it, besides `extended`; `suite[steps=5]` includes it with other parameters.
        budgets: suite -> the threat model that it runs under there, `linf:8/255`, where a paper prints one; elsewhere
            the dataset's own budget. A user's budget of that kind comes before both.
        revision: raised whenever its results change.
        paper: where the algorithm is published.
    """

    name: str
    run: Callable[..., Any]
    threats: tuple[str, ...]
    access: Access = "gradient"
    params: Defaults = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    prefix: str | None = None
    minimal: bool = False
    needs: tuple[Need, ...] = ()
    only_against: tuple[str, ...] = ()
    min_classes: int = 2
    max_classes: int | None = None
    aliases: tuple[str, ...] = ()
    batch_coupled: bool = False
    verdicts_only: bool = False
    cost: int = 1000
    trial: Mapping[str, Value] = field(default_factory=dict)
    as_published: bool = False
    defect: str = ""
    groups: tuple[str, ...] = ()
    budgets: Mapping[str, str] = field(default_factory=dict)
    revision: int = 1
    paper: str = ""
    summary: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerAttack:
    """The PGD that training runs on every batch (linf).

    `eps` and `step` default to the dataset's. `start`: `uniform` in the ball, `normal` (0.001 * N(0, 1)) or `none`.
    `mode`: whether the network is in `eval` or `train` mode while it is attacked. `ramp_epochs`: both `eps` and
    `step` grow linearly from 0 over that many epochs.
    """

    steps: int
    eps: Fraction | None = None
    step: Fraction | None = None
    start: Literal["uniform", "normal", "none"] = "uniform"
    mode: Literal["eval", "train"] = "eval"
    ramp_epochs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train: network, optimiser, schedule, length, batch and inner attack.

    `name` is that of its paper (`tpap`, `tpap-wide`), or of this project's own settings, whose `source` begins with
    `ours`. `schedule`: `constant`, `cosine` (to zero, per epoch), `steps` (times `decay` at each of `milestones`,
    epochs from 0) or `cyclic` (from zero to `lr` in the middle and back, per batch). `augment`: `none`, `flip` (half of
    the images left to right), `crop-flip` (pad 4, random crop, flip) or `resized-crop-flip` (a random part of 0.45 to 1
    of the image, scaled back, flip). `selection`: which checkpoint is attacked, `last` or `best` (by robust accuracy on
    the validation slice). `source`: where the settings come from. `deploy_eps`: what `TRAINING_EPS` stands for in
    parameters of deployment, where it is not the eps of the inner attack; no weights depend on it.
    """

    name: str
    arch: str
    epochs: int
    batch: int
    lr: float
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "steps", "cyclic"] = "constant"
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    augment: Literal["none", "flip", "crop-flip", "resized-crop-flip"] = "none"
    inner: InnerAttack = InnerAttack(steps=10)
    selection: Literal["last", "best"] = "last"
    source: str = ""
    deploy_eps: Fraction | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """Another network that an attacker of a defense differentiates instead of the deployed one; never judged.

    `build(network, **params)` makes it from the trained network, which it must not change. `knowledge`: what an
    attack on it knows: `static` (the network without what is added at inference), `transfer` (another network) or
    `adaptive` (a differentiable stand-in of the deployed one). `every`: all attacks with gradients run on it too, as
    the paper's protocol has it; otherwise it is attacked where `Defense.adaptive` or the user says `attack@name`.
    """

    name: str
    build: Callable[..., torch.nn.Module]
    knowledge: Literal["static", "transfer", "adaptive"] = "adaptive"
    every: bool = False
    summary: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defense:
    """One defense: how its network is trained or loaded, and what is deployed.

    Give one of `step(model, x, y, ctx, **params)` (the loss of one batch; the harness owns the epoch loop),
    `train(model, ctx, **params)` (its own loop; it calls `ctx.save_state` every epoch) and `load(data=..., **params)`
    (returns a network with weights). `extend(network, shape=..., classes=..., **params)` makes what is trained and
    saved from the freshly built architecture. `wrap(model, **params)` returns what is deployed, and what is deployed
    is what is judged.

    Args:
        about: parameter -> what it does, in a few words, for `harness show`.
        deployment: the parameters that only `wrap` and stand-ins are handed: networks that differ in nothing else are
            trained once.
        recipes: dataset -> its own recipes, the default first; otherwise the dataset's recipes are used.
        more_recipes: dataset -> further recipes, found by name and never by default: how the papers of other defenses
            train it for their tables, or its own where it should stay comparable with others.
        uses: other defenses and attacks, by name, that its training builds on; their revisions are part of its key.
        stand_ins: what attacks may differentiate instead of what is deployed.
        adaptive: the attacks that know it, `attack` or `attack@stand_in`; every suite `all` includes them.
        gated: a choice inside its prediction (an argmax that selects a branch or a mask) hides part of the gradient;
            without `adaptive` its numbers carry the flag `no_adaptive`.
        mandatory: attacks without which its numbers carry the flag `weak_protocol`.
        stochastic: its predictions are random by design; then `votes` fresh predictions stand behind each verdict,
            and an image is broken where more than half of them are wrong.
        claims: `clean` or an attack -> the published accuracy in per cent.
        revision: raised whenever what it trains or deploys changes.
    """

    name: str
    step: Callable[..., torch.Tensor] | None = None
    train: Callable[..., None] | None = None
    load: Callable[..., torch.nn.Module] | None = None
    extend: Callable[..., torch.nn.Module] | None = None
    wrap: Callable[..., torch.nn.Module] | None = None
    params: Defaults = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    deployment: tuple[str, ...] = ()
    recipes: Mapping[str, tuple[Recipe, ...]] = field(default_factory=dict)
    more_recipes: Mapping[str, tuple[Recipe, ...]] = field(default_factory=dict)
    uses: tuple[str, ...] = ()
    stand_ins: tuple[StandIn, ...] = ()
    adaptive: tuple[str, ...] = ()
    gated: bool = False
    mandatory: tuple[str, ...] = ()
    stochastic: bool = False
    votes: int = 11
    claims: Mapping[str, float] = field(default_factory=dict)
    revision: int = 1
    paper: str = ""
    summary: str = ""

    def of_training(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Pick the parameters that training is handed."""
        return {name: value for name, value in values.items() if name not in self.deployment}


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One part of a dataset: pixels uint8 (n, c, h, w) with value / `levels` in [0, 1], labels int64 (n,).

    `notes`: what its reader left out or changed, a line each, for the user; they are not part of its hash.
    """

    pixels: np.ndarray
    labels: np.ndarray
    levels: int = 255
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One dataset: `load(part, root=..., location=...)` returns the `Split` `train`, `validation` or `test`.

    `validation` is cut from the training images, never from the test images. `root` is the user's `--data-root`;
    `location` is what follows the colon of a name such as `folder:PATH`, and only `located` datasets take one.
    `budgets`: threat kind -> eps, the default kind first. `step`: the attack step as a share of eps.
    `classes` and `shape` (c, h, w) are None where only loading tells. `everything`: it also loads a part of that
    name, all images that may be judged where no network needs training images.
    """

    name: str
    load: Callable[..., Split]
    classes: int | None
    shape: tuple[int, int, int] | None
    budgets: Mapping[str, Fraction]
    step: Fraction = Fraction(1, 4)
    recipes: tuple[Recipe, ...] = ()
    located: bool = False
    everything: bool = False
    summary: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One network: `build(shape, classes, **params)` returns a `harness.networks.Classifier`, freshly initialised.

    `about`: parameter -> what it does, in a few words. `revision` is raised whenever the same parameters build another
    network.
    """

    name: str
    build: Callable[..., torch.nn.Module]
    params: Defaults = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    revision: int = 1
    summary: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Something measured of a defense besides its accuracy: `run(ctx, **params)` returns name -> `Quantity`.

    `ctx` is a `harness.api.AnalysisContext`.

    Args:
        about: parameter -> what it does, in a few words, for `harness show`.
        only_of: the defenses that it is about; empty for all.
        groups: suites that include it; `all` is what boards show.
        revision: raised whenever its results change.
    """

    name: str
    run: Callable[..., Mapping[str, Quantity]]
    params: Defaults = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    only_of: tuple[str, ...] = ()
    groups: tuple[str, ...] = ("all",)
    revision: int = 1
    paper: str = ""
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A measured number, over how many images (or what else it counts), and its unit; None where nothing was there."""

    value: float | None
    n: int
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One model to be attacked: a defense with its parameters, trained in one way on one dataset.

    `defense` and `arch` are ids such as `aalp[version=1]`; `weights` is a file given by the user, or empty.
    """

    defense: str
    defense_params: Mapping[str, Value]
    arch: str
    arch_params: Mapping[str, Value]
    recipe: Recipe | None
    train_seed: int = 0
    weights: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One attack on one subject under one threat model: names and numbers only.

    `attack` is an id such as `pgd-40@base`; `on` is the stand-in that it differentiates, empty for what is deployed.
    `surrogate`: the other network that a transfer attack crafts on.
    """

    subject: Subject
    attack: str
    params: Mapping[str, Value]
    threat: ThreatModel
    seed: int = 0
    on: str = ""
    knowledge: Knowledge = "static"
    surrogate: Subject | None = None


class CellState(StrEnum):
    """How a cell ended: with a number (`done`), with some of its images missing (`partial`), or without any."""

    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    TIMEOUT = "timeout"
    REFUSED = "refused"
    NOT_APPLICABLE = "not applicable"
    NOT_RUN = "not run"

    @property
    def counts_as_failure(self) -> bool:
        """True where something went wrong; an attack that does not apply is left out, not failed."""
        return self in (CellState.FAILED, CellState.TIMEOUT, CellState.REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """A cell that was asked for and does not apply, with the reason."""

    defense: str
    attack: str
    reason: str
