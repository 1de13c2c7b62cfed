"""Masks hide a vector, and cancel to the last bit; the stream is AES-256-CTR."""

import os
import tracemalloc

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from wardround_shared.secure_aggregation import masks as module
from wardround_shared.secure_aggregation.faults import MessageError
from wardround_shared.secure_aggregation.masks import Mask, add_mask, add_masks, add_vector
from wardround_shared.secure_aggregation.streams import KeyStream

# A correct cipher fails a test of this level once in ten million runs.
LEVEL = 1e-7
SEEDS = st.binary(min_size=32, max_size=32)
VECTORS = hnp.arrays(np.uint32, st.integers(0, 70))


def zeros(n):
    return np.zeros(n, dtype=np.uint32)


def counter_mode(key, size):
    """The same stream from the cipher's plain counter mode."""
    first = (2).to_bytes(16, "big")
    return Cipher(algorithms.AES(key), modes.CTR(first)).encryptor().update(bytes(size))


@given(VECTORS, st.lists(SEEDS, max_size=4, unique=True), st.data())
def test_taking_masks_off_again_gives_the_vector(vector, seeds, data):
    wide = data.draw(st.integers(0, len(vector)))
    masked = vector.copy()
    add_masks(
        masked, [Mask(seed=seed, negate=i % 2 == 0) for i, seed in enumerate(seeds)], wide=wide
    )
    for i, seed in enumerate(seeds):
        add_mask(masked, seed, negate=i % 2 == 1, wide=wide)
    assert masked.tolist() == vector.tolist()


@given(st.integers(2, 5), st.integers(0, 40), st.data())
def test_pairwise_masks_cancel_in_the_sum(sites, n, data):
    wide = data.draw(st.integers(0, n))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    vectors = rng.integers(0, 2**32, (sites, n), dtype=np.uint32)
    seed = {(i, j): bytes([i, j]) * 16 for i in range(sites) for j in range(i)}
    total, plain = zeros(n), zeros(n)
    for i, vector in enumerate(vectors):
        add_vector(plain, vector, wide=wide)
        peers = (j for j in range(sites) if j != i)
        mine = [Mask(seed=seed[max(i, j), min(i, j)], negate=i > j) for j in peers]
        add_masks(vector, mine, wide=wide)
        add_vector(total, vector, wide=wide)
    assert total.tolist() == plain.tolist()


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1000])
def test_the_stream_is_counter_mode_from_block_two(size):
    buffer = bytearray(size + 15)
    KeyStream(b"k" * 32).write(memoryview(bytes(size)), memoryview(buffer))
    assert bytes(buffer[:size]) == counter_mode(b"k" * 32, size)


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_chunks_join_without_a_gap(extra):
    n = 2 * module._CHUNK_BYTES // 4 + extra
    vector = zeros(n)
    add_mask(vector, b"k" * 32, negate=False)
    assert vector.tobytes() == counter_mode(b"k" * 32, 4 * n)


def test_wide_and_narrow_words_use_one_stream():
    # With nothing to carry, both rings give the bytes of the stream.
    vector = zeros(200_000)
    add_mask(vector, b"k" * 32, negate=False, wide=100_003)
    assert vector.tobytes() == counter_mode(b"k" * 32, vector.nbytes)


def test_halves_of_a_narrow_word_do_not_carry_into_each_other():
    total = np.array([0x0000FFFF, 0x0000FFFF], dtype=np.uint32)
    add_vector(total, np.array([1, 1], dtype=np.uint32), wide=1)
    assert total.tolist() == [0x00010000, 0]


class TestWhatIsSeen:
    n = 250_000

    def masked(self, value, seed):
        vector = np.full(self.n, value, dtype=np.uint32)
        add_mask(vector, seed, negate=False)
        return vector

    @pytest.mark.parametrize("value", [0, 1, 2**31, 2**32 - 1])
    def test_a_masked_vector_is_uniform(self, value):
        vector = self.masked(value, os.urandom(32))
        assert stats.kstest(vector / 2.0**32, "uniform").pvalue > LEVEL
        for byte in vector.view(np.uint8).reshape(-1, 4).T:
            assert stats.chisquare(np.bincount(byte, minlength=256)).pvalue > LEVEL
        bits = np.unpackbits(vector.view(np.uint8)).reshape(-1, 32).sum(axis=0)
        for ones in bits:
            assert stats.binomtest(int(ones), self.n).pvalue > LEVEL

    def test_equal_vectors_are_unrelated_under_other_seeds(self):
        first, second = (self.masked(5, os.urandom(32)) for _ in range(2))
        assert stats.pearsonr(first, second).pvalue > LEVEL
        assert stats.kstest((first - second) / 2.0**32, "uniform").pvalue > LEVEL
        # Equal words: Poisson with mean n / 2^32; five of them come once in 10^23 runs.
        assert np.count_nonzero(first == second) < 5

    def test_neighbouring_words_are_unrelated(self):
        vector = self.masked(0, os.urandom(32))
        assert stats.pearsonr(vector[1:], vector[:-1]).pvalue > LEVEL

    def test_one_bit_of_the_seed_changes_everything(self):
        first, second = self.masked(0, bytes(32)), self.masked(0, bytes(31) + b"\1")
        assert np.count_nonzero(first == second) < 5


def test_one_seed_twice_is_refused_and_nothing_is_masked():
    # Added and subtracted, it would cancel and leave the vector in clear.
    vector = zeros(4)
    mask = Mask(seed=b"k" * 32, negate=False)
    with pytest.raises(MessageError, match="twice"):
        add_masks(vector, [mask, Mask(seed=b"k" * 32, negate=True)])
    assert not vector.any()


@pytest.mark.parametrize("vector", [np.zeros(4), zeros(8)[::2], zeros(4).reshape(2, 2)])
def test_only_a_contiguous_vector_of_words_is_masked(vector):
    with pytest.raises(MessageError):
        add_mask(vector, b"k" * 32, negate=False)


def test_vectors_of_different_length_are_not_added():
    for other in (1, 3):
        with pytest.raises(MessageError, match="words"):
            add_vector(zeros(2), zeros(other))


def test_a_seed_is_not_shown():
    assert "AAAA" not in repr(Mask(seed=b"A" * 32, negate=False))


def test_memory_does_not_grow_with_the_vector_or_the_number_of_masks():
    vector = zeros(2_000_000)
    masks = [Mask(seed=os.urandom(32), negate=False) for _ in range(20)]
    tracemalloc.start()
    add_masks(vector, masks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_500_000
