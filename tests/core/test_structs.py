"""Structs of arrays for compiled code, and scratch that is used again."""

import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.kernels.compilation import kernel
from streamgmm.core.kernels.structs import Struct
from streamgmm.core.noise import NO_BOX, Noise
from streamgmm.core.scratch import Scratch
from streamgmm.core.statistics import Statistics
from tests.core.cases import draw, random_parameters


class Values(NamedTuple):
    """One field of each kind."""

    count: int
    table: NDArray[np.float32]
    scale: float
    flags: NDArray[np.bool_]
    is_on: bool
    numbers: NDArray[np.int64]
    empty: NDArray[np.float64]


def values() -> Values:
    table = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    return Values(
        -7, table, -0.1, np.array([True, False]), True, np.arange(3) - 1, np.empty((0, 5))
    )


@kernel
def read_fields(rows, struct, found, others):
    """Write what compiled code finds in a struct."""
    found[0] = struct.count
    found[1] = struct.scale
    found[2] = 1.0 if struct.is_on else 0.0
    found[3] = struct.table[1, 2, 3]
    found[4] = struct.table.shape[1]
    found[5] = struct.flags[0] + 10 * struct.flags[1]
    found[6] = struct.numbers[0]
    found[7] = struct.empty.shape[0] + 10 * struct.empty.shape[1]
    for i in range(struct.numbers.size):
        struct.numbers[i] += 1
    others[:] = struct.numbers


@pytest.mark.parametrize("is_pickled", [False, True])
def test_compiled_code_reads_and_writes_the_fields(is_pickled: bool) -> None:
    struct = Struct(values())
    if is_pickled:
        struct = pickle.loads(pickle.dumps(struct))
    found, others = np.empty(8), np.empty(3, dtype=np.int64)
    read_fields(np.empty((1, 1)), struct, found, others)
    expected = [-7, -0.1, 1, 23, 3, 1, -1, 50]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(struct.values.numbers, [0, 1, 2])
    np.testing.assert_array_equal(others, [0, 1, 2])


def test_structs_of_equal_fields_have_one_type() -> None:
    others = values()._replace(table=np.ones((1, 1, 1), dtype=np.float32), scale=np.float64(3.0))
    assert Struct(values()).type == Struct(others).type
    assert Struct(values()).type != Struct(values()._replace(table=np.ones((1, 1, 1)))).type
    assert numba.typeof(Struct(values())) == Struct(values()).type


def test_a_struct_has_only_the_fields_of_its_tuple() -> None:
    @kernel
    def read_another(rows, struct, found):
        found[0] = struct.missing

    with pytest.raises(numba.TypingError, match="missing"):
        read_another(np.empty((1, 1)), Struct(values()), np.empty(1))


class Piece:
    """Something that is allocated."""


def test_arrays_of_another_layout_are_refused() -> None:
    whole = np.arange(6)
    fixed = whole.copy()
    fixed.flags.writeable = False
    for numbers in (whole[::2], fixed):
        with pytest.raises(ValueError, match="C-contiguous and writable"):
            Struct(values()._replace(numbers=numbers))


def test_scratch_is_used_again_and_never_shared() -> None:
    scratch = Scratch((), 0)
    with scratch.lent("a", Piece) as first, scratch.lent("b", Piece) as other:
        assert other is not first
    with scratch.lent("a", Piece) as again, scratch.lent("a", Piece) as inner:
        assert again is first
        assert inner is not first
    together, held = threading.Barrier(8), []

    def hold(_: int) -> None:
        for _ in range(2):
            with scratch.lent("a", Piece) as own:
                together.wait()
                held.append(own)
                together.wait()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, range(8)))
    assert len(set(map(id, held))) == 8


def test_small_scratch_is_kept_for_mixtures_of_the_same_shape() -> None:
    with Scratch((2, 3), 1000).lent("a", Piece) as piece:
        first = weakref.ref(piece)
    del piece
    with Scratch((2, 3), 1000).lent("a", Piece) as piece:
        assert first() is piece
    del piece
    with Scratch((3, 3), 1000).lent("a", Piece):
        assert first() is None


def test_a_thread_keeps_the_large_scratch_of_one_mixture() -> None:
    one, other = Scratch((), 1 << 30), Scratch((), 1 << 30)
    with one.lent("a", Piece) as piece:
        first = weakref.ref(piece)
    del piece
    assert first() is not None
    with other.lent("a", Piece) as piece:
        assert first() is None
        second = weakref.ref(piece)
    del piece
    assert second() is not None
    del other
    assert second() is None


def test_scratch_that_an_error_left_in_disorder_is_not_used_again() -> None:
    scratch = Scratch((), 0)
    with pytest.raises(KeyboardInterrupt), scratch.lent("a", Piece) as broken:
        raise KeyboardInterrupt
    with scratch.lent("a", Piece) as own:
        assert own is not broken


def bits(found: Statistics) -> bytes:
    totals = np.array([found.log_likelihood, found.weight, found.n_rows, found.n_screened])
    return found.moments.tobytes() + found.scatter.tobytes() + totals.tobytes()


@pytest.mark.parametrize("covariance_type", ["full", "diag", "tied", "spherical"])
@pytest.mark.parametrize("is_hard", [False, True])
def test_earlier_chunks_and_other_threads_do_not_change_bits(
    covariance_type: str, is_hard: bool
) -> None:
    rng = np.random.default_rng(0)
    parameters = random_parameters(rng, covariance_type, 4, 17, 1.0)
    rows = draw(rng, parameters, 3000)
    chunks = [rows[:1500], rows[1500:1501], rows[1501:2900], 1e3 * rows[2900:]]
    chunks[2][5], chunks[2][700, 3] = np.nan, np.inf
    frame = Frame.of(parameters)

    def prepared() -> EStep:
        return EStep.prepare(parameters, frame, is_hard=is_hard)

    expected = [bits(prepared().statistics(chunk)) for chunk in chunks]
    shared = prepared()
    shared.posterior(chunks[3], with_responsibilities=True)
    assert [bits(shared.statistics(chunk)) for chunk in chunks] == expected
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(shared.statistics, 4 * chunks))
    assert [bits(one) for one in found] == 4 * expected


def test_noise_of_an_earlier_mixture_of_the_same_shape_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    for covariance_type in ("diag", "low_rank(1)"):
        plain = random_parameters(rng, covariance_type, 3, 5, 1.0)
        noisy = replace(plain, weights=0.9 * plain.weights, noise=Noise(0.1, 20.0, NO_BOX))
        rows = draw(rng, plain, 200)
        found = []
        for parameters in (plain, noisy, plain):
            one = EStep.prepare(parameters, Frame.of(parameters), is_hard=True)
            found.append((bits(one.statistics(rows)), one.assignment(rows).labels.tolist()))
        assert found[0] == found[2]
        assert set(found[1][1]) == {-1}


def test_an_e_step_takes_no_scratch_along() -> None:
    rng = np.random.default_rng(0)
    parameters = random_parameters(rng, "full", 3, 6, 1.0)
    rows = draw(rng, parameters, 100)
    expectation = EStep.prepare(parameters, Frame.of(parameters))
    before = pickle.dumps(expectation)
    expected = bits(expectation.statistics(rows))
    assert pickle.dumps(expectation) == before
    assert bits(pickle.loads(before).statistics(rows)) == expected


def test_arrays_that_begin_anywhere_are_copied() -> None:
    """Those of another process may be read-only parts of a message."""
    rng = np.random.default_rng(11)
    parameters = random_parameters(rng, "full", 3, 4, spread=30.0)
    expectation = EStep.prepare(parameters, Frame.of(parameters))
    rows = draw(rng, parameters, 100)

    def received(array: NDArray[np.float64]) -> NDArray[np.float64]:
        found = np.frombuffer(b"." + array.tobytes(), array.dtype, offset=1).reshape(array.shape)
        assert not (found.flags.aligned and found.size) and not found.flags.writeable
        return found

    coefficients = expectation.coefficients
    arrays = {
        name: received(value)
        for name, value in coefficients._asdict().items()
        if isinstance(value, np.ndarray) and value.size
    }
    other = replace(
        expectation,
        weights=received(expectation.weights),
        coefficients=coefficients._replace(**arrays),
    )
    np.testing.assert_array_equal(
        other.statistics(rows).moments, expectation.statistics(rows).moments
    )
    np.testing.assert_array_equal(other.posterior(rows).scores, expectation.posterior(rows).scores)
