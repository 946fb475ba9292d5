"""Memory and time: a batch that does not fit is halved and changes no number, and nobody sleeps through a deadline."""

import contextlib
from fractions import Fraction

import pytest
import torch

from harness.conformance import toys
from harness.errors import OutOfTime
from harness.evaluation.context import AttackContext, Supplies
from harness.evaluation.evaluate import Evaluated
from harness.evaluation.judge import Judge
from harness.evaluation.measurement import Refused
from harness.evaluation.oracle import Oracle
from harness.types import Result, ThreatModel
from support.clock import Clock
from support.measure import cell_of, estimated, evaluated, planted

THREAT = ThreatModel(kind="linf", eps=Fraction(1, 20))
NO_RAM = (
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
)
OUT_OF_MEMORY = [torch.OutOfMemoryError("HIP out of memory"), MemoryError(), RuntimeError(f"{NO_RAM} 9 bytes")]


def cells(*steps):
    params = [{"steps": n} for n in steps] or [{}]
    return [cell_of("planted", THREAT, given) for given in params]


def evaluated_toys(spec, model=None, batch=32, n=32, steps=(), supplies=None) -> Evaluated:
    x, y = toys.images(n=n)
    judge = Judge(model or toys.tiny_net(), 4, toys.SHAPE)
    return evaluated(judge, toys.shard(x, y), spec, cells(*steps), batch=batch, supplies=supplies)


def noisy_step(model, x, y, threat, *, ctx):
    """Draws, a gradient, a claim and a detail: everything that pieces of a shard have to be put together from."""
    point = (x + float(threat.eps) * ctx.noise("start:0")).clamp(0, 1).requires_grad_(True)
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(point), y, reduction="sum"), point)
    last = (x + float(threat.eps) * gradient.sign()).clamp(0, 1)
    return Result(last=last, any=point.detach(), details={"first": x[:, 0, 0, 0]})


def limited(room, error=OUT_OF_MEMORY[0], run=noisy_step):
    """The attack with room for so many images, and the sizes of the batches it was given."""
    seen = []

    def tight(model, x, y, threat, *, ctx, **params):
        seen.append(len(x))
        assert len(seen) < 99, "tried without end"
        logits = model(x)
        if len(x) > room:
            raise error
        assert logits.shape == (len(x), 4)
        return run(model, x, y, threat, ctx=ctx, **params)

    return tight, seen


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("batch", "room", "sizes"),
    [
        (32, 32, [32]),
        (32, 8, [32, 16] + 4 * [8]),
        (31, 8, [31, 16] + 4 * [8]),
        (32, 1, [32, 16, 8, 4, 2] + 32 * [1]),
        (12, 11, [12, 6, 6, 6, 6, 6, 2]),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_and_gives_the_same_measurement(batch, room, sizes, error):
    run, seen = limited(room, error)
    found = evaluated_toys(planted(run), batch=batch)
    assert seen == sizes
    assert found.batch == max(size for size in sizes if size <= room)
    roomy = evaluated_toys(planted(limited(1000)[0]), batch=batch)
    assert roomy.batch == batch
    assert found.results == roomy.results
    assert found.results[0].forwards == 2 * 32, "tries that came to nothing cost nothing"


def test_a_batch_in_the_middle_of_a_shard_may_be_the_first_that_does_not_fit():
    seen = []

    def run(model, x, y, threat, *, ctx):
        seen.append(ctx.examples)
        if 20 in ctx.examples and len(x) > 3:
            raise MemoryError
        print(f"{ctx.examples[0]};", end="")
        return noisy_step(model, x, y, threat, ctx=ctx)

    found = evaluated_toys(planted(run), batch=8)
    spans = [(s[0], len(s)) for s in seen]
    assert spans == [(0, 8), (8, 8), (16, 8), (16, 4), (20, 4), (20, 2), *((i, 2) for i in range(22, 32, 2))]
    whole = evaluated_toys(planted(noisy_step), batch=8)
    assert found.results == whole.results
    assert found.printed == "0;8;16;20;22;24;26;28;30;"


def test_snapshots_of_halved_batches_cost_what_they_would_have():
    def walk(model, x, y, threat, *, ctx, steps):
        snapshots = {}
        for done in range(1, steps + 1):
            x = (x + 0.01 * ctx.noise(f"step:{done}")).clamp(0, 1)
            model(x)
            if done in ctx.steps_wanted:
                ctx.reached(done)
                snapshots[done] = Result(last=x)
        return Result(last=x, snapshots=snapshots)

    spec = {"prefix": "steps", "params": {"steps": 5}}
    roomy = evaluated_toys(planted(limited(1000, run=walk)[0], **spec), steps=(2, 5))
    tight = evaluated_toys(planted(limited(9, run=walk)[0], **spec), steps=(2, 5))
    assert tight.results == roomy.results
    assert [result.forwards for result in tight.results] == [3 * 32, 6 * 32]


class Hungry(torch.nn.Module):
    """Has room for eight images while it keeps what a gradient needs, or at any time."""

    def __init__(self, always):
        super().__init__()
        self.network, self.always = toys.tiny_net(), always

    def forward(self, x):
        if len(x) > 8 and (self.always or torch.is_grad_enabled()):
            raise torch.OutOfMemoryError("out of memory")
        return self.network(x)


@pytest.mark.parametrize(
    "always",
    [False, True],
)
def test_a_model_that_runs_out_is_halved_too(always):
    found = evaluated_toys(planted(noisy_step), Hungry(always))
    assert found.batch == 8
    assert found.results == evaluated_toys(planted(noisy_step)).results


def test_one_image_that_does_not_fit_is_an_error():
    run, seen = limited(0)
    with pytest.raises(torch.OutOfMemoryError):
        evaluated_toys(planted(run), batch=4)
    assert seen == [4, 2, 1]


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("can't allocate memory")]
)
def test_other_errors_pass_at_once(error):
    run, seen = limited(8, error)
    with pytest.raises(type(error)) as caught:
        evaluated_toys(planted(run))
    assert caught.value is error
    assert seen == [32]


def without_ctx(tight):
    return lambda model, x, y, threat: tight(model, x, y, threat, ctx=None)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("coupled", [True, False])
def test_attacks_that_need_the_whole_shard_get_it_or_end(coupled, error):
    run, seen = limited(31, error)
    spec = planted(run, batch_coupled=True) if coupled else planted(without_ctx(run))
    with pytest.raises(type(error)):
        evaluated_toys(spec)
    assert seen == [32]


@pytest.mark.parametrize("batch", [1, 7, 250])
@pytest.mark.parametrize("coupled", [True, False])
def test_a_smaller_batch_never_splits_attacks_that_need_the_whole_shard(coupled, batch):
    run, seen = limited(1000, run=lambda model, x, y, threat, *, ctx: x)
    found = evaluated_toys(planted(run, batch_coupled=True) if coupled else planted(without_ctx(run)), batch=batch)
    assert seen == [32]
    assert found.batch == 32


def test_a_refusal_counts_each_image_once_however_often_its_batch_was_tried():
    run, _ = limited(8, run=lambda model, x, y, threat, *, ctx: torch.zeros_like(x))
    (result,) = evaluated_toys(planted(run)).results
    assert isinstance(result, Refused)
    assert result.reasons == {"outside linf:1/20": 32}


# Time


def priced(clock, each, fixed):
    """An attack that takes so many seconds for each image and each batch, and the sizes it was given."""
    seen = []

    def run(model, x, y, threat, *, ctx):
        seen.append(ctx.examples)
        clock.spend(fixed + each * len(x))
        return x

    return run, seen


def estimated_toys(spec, batch, sizes, n=32, supplies=None):
    x, y = toys.images(n=n)
    judge = Judge(toys.tiny_net(), 4, toys.SHAPE)
    return estimated(judge, toys.shard(x, y), spec, cells(), sizes, batch=batch, supplies=supplies)


@pytest.fixture
def clock(monkeypatch):
    return Clock().install(monkeypatch)


@pytest.mark.parametrize(("each", "fixed"), [(0.5, 0.0), (0.0, 3.0), (0.25, 8.0)])
@pytest.mark.parametrize(
    ("batch", "batches"), [(250, 3), (1000, 3), (100, 3 + 3 + 1), (1, 600)], ids=lambda value: str(value)
)
def test_the_estimate_is_exact_where_the_cost_is_linear(clock, each, fixed, batch, batches):
    run, seen = priced(clock, each, fixed)
    found = estimated_toys(planted(run), batch, [250, 250, 100])
    assert found == pytest.approx(each * 600 + fixed * batches)
    assert seen == [tuple(range(4)), tuple(range(16))], "the first images of the shard"


@pytest.mark.parametrize("coupled", [True, False])
def test_attacks_that_need_the_whole_shard_pay_once_for_each(clock, coupled):
    run, _ = priced(clock, 0.25, 8.0)
    spec = (
        planted(run, batch_coupled=True) if coupled else planted(lambda m, x, y, t: (clock.spend(8 + len(x) / 4), x)[1])
    )
    assert estimated_toys(spec, 50, [250, 250, 100]) == pytest.approx(600 / 4 + 3 * 8)


@pytest.mark.parametrize("n", [1, 3, 4, 10])
def test_a_shard_with_few_images_is_estimated_from_those(clock, n):
    run, seen = priced(clock, 0.25, 8.0)
    assert estimated_toys(planted(run), 250, [n], n=n) == pytest.approx(8 + n / 4)
    assert [len(examples) for examples in seen] == [min(n, 4), n]


def test_a_slow_first_call_makes_no_negative_time(clock):
    warm = []

    def run(model, x, y, threat, *, ctx):
        clock.spend(len(x) if warm else 100)
        warm.append(len(x))
        return x

    assert estimated_toys(planted(run), 250, [250]) >= 16


def test_probing_changes_nothing_that_follows():
    run, _ = limited(1000)
    x, y = toys.images(n=32)
    judge = Judge(toys.tiny_net(), 4, toys.SHAPE)
    estimated(judge, toys.shard(x, y), planted(run), cells(), [32], batch=32)
    after = evaluated(judge, toys.shard(x, y), planted(run), cells(), batch=32)
    assert after.results == evaluated_toys(planted(run)).results


@pytest.mark.parametrize("access", ["gradient", "score", "decision"])
def test_the_model_answers_up_to_the_deadline_and_not_after(clock, access):
    oracle = Oracle(toys.tiny_net(), access, deadline=clock.now + 5)
    x, _ = toys.images(n=3)
    oracle(x)
    clock.spend(5)
    oracle(x)
    clock.spend(0.001)
    with pytest.raises(OutOfTime):
        oracle(x)
    assert oracle.forwards == 6
    endless = Oracle(toys.tiny_net(), access)
    clock.spend(1e9)
    endless(x)


def goes_on_whatever_happens(model, x, ctx, spend):
    for _ in range(3):
        spend(10)
        with contextlib.suppress(Exception):
            model(x)


def asks_inside(model, x, ctx, spend):
    spend(30)
    model.model(x)


def asks_the_surrogate(model, x, ctx, spend):
    spend(30)
    ctx.surrogate()(x)


def asks_for_features(model, x, ctx, spend):
    spend(30)
    ctx.features(x)


@pytest.mark.parametrize("way", [goes_on_whatever_happens, asks_inside, asks_the_surrogate, asks_for_features])
def test_no_attack_gets_an_answer_after_its_time(clock, way):
    late = []

    def run(model, x, y, threat, *, ctx):
        try:
            way(model, x, ctx, clock.spend)
        except OutOfTime:
            late.append(clock.now)
            raise
        return x

    def within(seconds):
        return Supplies(surrogate=toys.tiny_net(seed=1), deadline=clock.now + seconds)

    with pytest.raises(OutOfTime):
        evaluated_toys(planted(run), supplies=within(25))
    assert late == [1030], "where it asked, not when the harness looked afterwards"
    assert evaluated_toys(planted(run), supplies=within(30)).results[0].n == 32


def test_running_out_of_time_is_no_exception_that_a_batch_could_be_halved_for():
    assert not issubclass(OutOfTime, Exception)


def test_an_attack_may_look_at_its_deadline_and_stop_by_itself(clock):
    def patient(model, x, y, threat, *, ctx):
        while ctx.deadline - clock.now > 10:
            model(x)
            clock.spend(10)
        return x

    found = evaluated_toys(planted(patient), supplies=Supplies(deadline=clock.now + 45))
    assert found.results[0].forwards == 4 * 32


def test_without_a_limit_there_is_no_deadline():
    x, _ = toys.images(n=2)
    ctx = AttackContext(Oracle(toys.tiny_net(), "score"), x, seed=0, data_sha256="0" * 64, examples=(0, 1))
    assert ctx.deadline is None
    assert ctx.cache_dir is None
