"""Draws against the recipe written out again, down to Philox in plain Python, and against their distributions."""

import hashlib
import itertools
import json
import random

import numpy as np
import pytest
import scipy.stats

from harness.data.seeds import derive, generator, noise, permutation

DATA_SHA = hashlib.sha256(b"a data set").hexdigest()
M = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
W = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
LOW = 2**64 - 1

# What these functions answered when the first records were made.
UNIFORM = [0.6204357147216797, -0.7524352073669434, 0.06258177757263184, -0.9934307336807251]
NORMAL = [1.9056059122085571, 0.1281197965145111, 0.7337314486503601, -0.0027411584742367268]
DERIVED = 3414812094309007252
ORDER = [6, 1, 8, 2, 9, 0, 7, 5, 3, 4]


def key_of(*parts):
    text = json.dumps(list(parts), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).digest()


def philox(key):
    """Philox4x64-10 (Salmon et al. 2011) from counter 1 on: 64-bit words."""
    for counter in itertools.count(1):
        c, k = [counter, 0, 0, 0], [key & LOW, key >> 64]
        for _ in range(10):
            a, b = M[0] * c[0], M[1] * c[2]
            c = [(b >> 64) ^ c[1] ^ k[0], b & LOW, (a >> 64) ^ c[3] ^ k[1], a & LOW]
            k = [(k[0] + W[0]) & LOW, (k[1] + W[1]) & LOW]
        yield from c


def uniform_by_hand(n, *parts):
    """2u - 1, with u the upper 24 bits of each half of each word, the lower half first."""
    words = philox(int.from_bytes(key_of(*parts)[:16], "big"))
    halves = (half for word in words for half in (word & 0xFFFFFFFF, word >> 32))
    return [2 * ((half >> 8) / 2**24) - 1 for half in itertools.islice(halves, n)]


def draw(n=64, *, seed=0, sha=DATA_SHA, examples=(0,), purpose="start", distribution="uniform"):
    return noise((n,), seed=seed, data_sha256=sha, examples=examples, purpose=purpose, distribution=distribution)


def test_philox_by_hand_is_numpys():
    for key in (0, 1, 2**64, 2**128 - 1):
        assert list(itertools.islice(philox(key), 8)) == np.random.Philox(key=key).random_raw(8).tolist()


@pytest.mark.parametrize("seed", [0, 1, 2**40])
@pytest.mark.parametrize("example", [0, 1, 9999])
@pytest.mark.parametrize("purpose", ["start", "restart 3", "größer"])
def test_uniform_noise_is_the_recipe_by_hand(seed, example, purpose):
    found = draw(20, seed=seed, examples=[example], purpose=purpose)
    assert found.dtype == np.float32
    assert found.tolist() == [uniform_by_hand(20, 1, seed, DATA_SHA, example, purpose)]


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_noise_is_the_recipe_with_numpy(distribution):
    found = noise((3, 4, 4), seed=5, data_sha256=DATA_SHA, examples=[7, 0], purpose="start", distribution=distribution)
    for row, example in zip(found, [7, 0], strict=True):
        key = int.from_bytes(key_of(1, 5, DATA_SHA, example, "start")[:16], "big")
        stream = np.random.Generator(np.random.Philox(key=key))
        wanted = (
            2 * stream.random((3, 4, 4), dtype=np.float32) - 1
            if distribution == "uniform"
            else stream.standard_normal((3, 4, 4), dtype=np.float32)
        )
        assert np.array_equal(row, wanted)
    assert found.shape == (2, 3, 4, 4)
    assert found.dtype == np.float32


def test_known_answers():
    # The uniform one and the seed are checked by hand too; the others would tell of a change in numpy.
    uniform = noise((4,), seed=0, data_sha256="0" * 64, examples=[0], purpose="start")[0]
    normal = noise((4,), seed=0, data_sha256="0" * 64, examples=[0], purpose="start", distribution="normal")[0]
    assert uniform.tolist() == UNIFORM == uniform_by_hand(4, 1, 0, "0" * 64, 0, "start")
    assert normal.tolist() == NORMAL
    assert derive("order", 10, "digits") == DERIVED
    assert permutation(10, "digits").tolist() == ORDER


def test_what_is_drawn_with_an_example_does_not_matter():
    examples = [3, 141, 59, 26, 5, 0]
    together = dict(zip(examples, draw(examples=examples), strict=True))
    for example in examples:
        assert np.array_equal(draw(examples=[example])[0], together[example])
    backwards = draw(examples=examples[::-1])
    assert np.array_equal(backwards, np.stack([together[example] for example in examples[::-1]]))
    np.random.default_rng(1).random(10)
    assert np.array_equal(draw(examples=[3])[0], together[3])


def test_a_shorter_draw_is_the_beginning_of_a_longer_one():
    assert np.array_equal(draw(10)[0], draw(64)[0][:10])


def test_seeds_data_examples_and_purposes_differ():
    streams = [
        draw(seed=seed, sha=sha, examples=[example], purpose=purpose)[0].tobytes()
        for seed in (0, 1, 2)
        for sha in (DATA_SHA, DATA_SHA[::-1])
        for example in (0, 1, 2)
        for purpose in ("start", "start2", "")
    ]
    assert len(set(streams)) == len(streams) == 54


def test_no_draws_at_all():
    assert noise((3, 2), seed=0, data_sha256=DATA_SHA, examples=[], purpose="start").shape == (0, 3, 2)


def test_uniform_noise_is_uniform():
    found = draw(1000, examples=range(200)).astype(np.float64)
    n = found.size
    assert found.min() >= -1
    assert found.max() < 1
    assert abs(found.mean()) < 5 * (1 / 3 / n) ** 0.5
    assert abs(found.var() - 1 / 3) < 5 * (4 / 45 / n) ** 0.5
    assert scipy.stats.kstest(found.ravel(), scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-4
    first = draw(1, examples=range(20_000)).ravel()
    assert scipy.stats.kstest(first, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-4, "across examples too"


def test_normal_noise_is_normal():
    within = draw(1000, examples=range(100), distribution="normal").ravel()
    across = draw(1, examples=range(20_000), distribution="normal").ravel()
    for found in (within, across):
        assert scipy.stats.kstest(found.astype(np.float64), scipy.stats.norm.cdf).pvalue > 1e-4


def test_neighbouring_examples_are_uncorrelated():
    found = draw(2000, examples=range(60)).astype(np.float64)
    pairs = np.corrcoef(found)[np.triu_indices(60, 1)]
    assert np.abs(pairs).max() < 6 / 2000**0.5


# derive and permutation


@pytest.mark.parametrize("key", [(), ("order", 3), (1, "a", None, True, 0.5), ("ü", [1, {"b": 2, "a": 1}])])
def test_derived_seeds_are_the_first_63_bits_of_the_sha256(key):
    assert derive(*key) == int(key_of(*key).hex()[:16], 16) // 2


def test_derived_seeds_do_not_collide_and_fill_63_bits():
    found = [derive("attack", i // 317, i % 317) for i in range(100_000)]
    assert len(set(found)) == 100_000
    assert 0 <= min(found) < 2**48
    assert 2**63 - 2**48 < max(found) < 2**63
    ones = sum(seed >> bit & 1 for seed in found[:1000] for bit in range(63))
    assert abs(ones - 31_500) < 5 * (63_000 / 4) ** 0.5


def test_how_a_key_is_split_matters():
    keys = [("ab",), ("a", "b"), ("a", ["b"]), (1,), ("1",), (1, 2), (12,), (), (None,), ([],)]
    assert len({derive(*key) for key in keys}) == len(keys)


def test_streams_do_not_touch_the_global_state():
    np.random.seed(3)
    random.seed(3)
    wanted = np.random.random(), random.random()
    np.random.seed(3)
    random.seed(3)
    draw()
    permutation(10, "x")
    generator(0, DATA_SHA, 0, "start").random()
    assert (np.random.random(), random.random()) == wanted


@pytest.mark.parametrize("n", [0, 1, 2, 10, 1797])
def test_a_permutation_is_one_and_stays(n):
    found = permutation(n, "digits", DATA_SHA)
    assert found.dtype == np.int64
    assert sorted(found.tolist()) == list(range(n))
    assert np.array_equal(found, permutation(n, "digits", DATA_SHA))


def test_permutations_depend_on_every_part_of_the_key():
    found = {permutation(100, *key).tobytes() for key in ((), ("a",), ("b",), ("a", "b"), ("a", 0), ("a", 1))}
    assert len(found) == 6
    assert not np.array_equal(permutation(101, "a")[:100], permutation(100, "a"))


def test_every_order_is_equally_likely():
    counts = np.zeros((5, 5))
    for i in range(5000):
        counts[np.arange(5), permutation(5, "fair", i)] += 1
    statistic = 0.8 * ((counts - 1000) ** 2 / 1000).sum()  # rows and columns sum to 5000: chi2 with 4 * 4 degrees
    assert scipy.stats.chi2.sf(statistic, 16) > 1e-4
