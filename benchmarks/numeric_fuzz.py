"""Fits of numbers of any size: only errors and warnings of the package, and no NaN in a model.

``python -m benchmarks.numeric_fuzz [--fits 6000] [--seed 0] [--small] [--save]``

Each fit has data, weights, gaps, a structure and settings drawn from its own seed: values from
1e-160 to 1e160, alone or mixed, in any numeric type; weights of any size; K from 1 to 8, D from 1
to 6, N from 1 to 200; EM, the default algorithm and streams. A fit must end with a model of finite
parameters and scores, or with an error of this package. Warnings of NumPy count as
failures. ``--fits 1 --seed S`` repeats the fit of seed S.
"""

import argparse
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

import streamgmm
from benchmarks.reporting import Table, report
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.core.structures import STRUCTURES
from streamgmm.errors import (
    DegenerateComponentWarning,
    FewRowsWarning,
    LeftOutRowsWarning,
    RidgeWarning,
    StreamGMMError,
)

_PARAMETERS = ("weights_", "means_", "covariances_", "precisions_cholesky_")
_SMALL_FITS = 150
_OWN_WARNINGS = (
    ConvergenceWarning,
    DegenerateComponentWarning,
    FewRowsWarning,
    LeftOutRowsWarning,
    RidgeWarning,
)


@dataclass(frozen=True)
class Case:
    """The data and settings of one fit.

    Attributes
    ----------
    rows : ndarray of shape (n, D)
    weights : ndarray of shape (n,), or None
    missing : {"error", "em"}
    kind : {"em", "auto", "online"}
    settings : dict
        Arguments of the estimator.
    """

    rows: np.ndarray
    weights: np.ndarray | None
    missing: str
    kind: str
    settings: dict[str, Any]


def drawn(seed: int) -> Case:
    """Draw a case."""
    rng = np.random.default_rng(seed)
    n, d, k = int(rng.integers(1, 201)), int(rng.integers(1, 7)), int(rng.integers(1, 9))
    rows = _values(rng, n, d)
    missing = "error"
    if rows.dtype.kind == "f" and rng.random() < 0.3:
        missing = "em"
        rows[rng.random((n, d)) < 0.2] = np.nan
    kind = str(rng.choice(["em", "auto", "online"]))
    settings: dict[str, Any] = {
        "n_components": k,
        "covariance_type": str(rng.choice(sorted(STRUCTURES))),
        "reg_covar": [0.0, "auto", 10.0 ** rng.uniform(-12, 3)][rng.integers(3)],
        "random_state": int(rng.integers(1000)),
        "n_jobs": 1,
    }
    if kind == "online":
        settings["init_size"] = int(rng.choice([20, 60]))
    else:
        settings |= {"algorithm": kind, "max_iter": 10}
    return Case(rows, _weights(rng, n), missing, kind, settings)


def _values(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    rows = rng.normal(size=(n, d)) + 4.0 * rng.integers(0, 3, size=(n, 1))
    shape = rng.integers(6)
    if shape == 0:
        rows = np.round(rows)
    elif shape == 1:
        rows[:] = rows[0]
    exponents = rng.uniform(-160.0, 160.0, size=d)
    if rng.random() < 0.5:
        exponents[:] = exponents[0]
    with np.errstate(all="ignore"):
        rows = rows * 10.0**exponents
        if rng.random() < 0.3:
            # Magnitudes are mixed in each column.
            rows = rows * 10.0 ** rng.uniform(-20.0, 20.0, size=(n, 1))
        if rng.random() < 0.2:
            rows[rng.integers(n), rng.integers(d)] = 10.0 ** rng.uniform(0.0, 160.0)
        if rng.random() < 0.3:
            rows = rows + 10.0 ** rng.uniform(-160.0, 160.0)
        dtype = rng.choice(["f8", "f8", "f8", "f4", "f2", "i4", ">f8", "longdouble"])
        if dtype == "i4":
            rows = np.clip(np.nan_to_num(rows), -(2.0**31), 2.0**31 - 1.0)
        return rows.astype(dtype)


def _weights(rng: np.random.Generator, n: int) -> np.ndarray | None:
    kind = rng.integers(7)
    if kind < 3:
        return None
    if kind == 3:
        return np.full(n, rng.choice([5e-324, 1e-300, 1e-30, 1e30, 1e36, 1e38, 1e100, 1e300]))
    if kind == 4:
        return rng.random(n) * rng.integers(0, 2, size=n)
    if kind == 5:
        return 10.0 ** rng.uniform(-320.0, 100.0, size=n)
    return rng.random(n).astype(np.float32) * np.float32(10.0 ** rng.uniform(-36.0, 36.0))


def outcome(case: Case) -> str:
    """Fit a case, and return how it ended in a few words.

    Raises
    ------
    AssertionError
        If the model holds a value that is not finite.
    Exception
        Any error that is not the package's own; warnings of NumPy count as errors.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for own in _OWN_WARNINGS:
            warnings.simplefilter("ignore", own)
        try:
            _check(_fitted(case), case)
        except StreamGMMError as error:
            return type(error).__name__
    return "fitted"


def _check(model: GaussianMixture | OnlineGaussianMixture, case: Case) -> None:
    """Refuse a model with values or scores that are not finite."""
    for name in _PARAMETERS:
        assert np.isfinite(getattr(model, name)).all(), f"{name} is not finite"
    weights = model.weights_
    assert np.all(weights >= 0.0), "a weight is negative"
    assert abs(weights.sum() - 1.0) < 1e-6, "weights do not sum to 1"
    source = streamgmm.open(case.rows, missing=case.missing)
    # Rows without any value have no density.
    has_value = ~np.isnan(case.rows.astype(np.float64)).all(axis=1)
    assert not np.isnan(model.score_samples(source)[has_value]).any(), "a score is NaN"
    assert not np.isnan(model.predict_proba(source)[has_value]).any(), "a responsibility is NaN"
    model.predict(source)


def _fitted(case: Case) -> GaussianMixture | OnlineGaussianMixture:
    def source(part: slice) -> Any:
        own = None if case.weights is None else case.weights[part]
        return streamgmm.open(case.rows[part], missing=case.missing, sample_weight=own)

    if case.kind != "online":
        return GaussianMixture(**case.settings).fit(source(slice(None)))
    model = OnlineGaussianMixture(**case.settings)
    half = len(case.rows) // 2
    for part in (slice(0, half), slice(half, None)):
        if len(case.rows[part]):
            model.partial_fit(source(part))
    return model


def run(n_fits: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Run some fits; return how they ended, and the failures."""
    ends: Counter[str] = Counter()
    failures = []
    for own in range(seed, seed + n_fits):
        try:
            ends[outcome(drawn(own))] += 1
        except Exception as error:  # noqa: BLE001 - the search is for any error
            failures.append(f"seed {own}: {type(error).__name__}: {error}")
    return ends, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fits", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help=f"{_SMALL_FITS} fits")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    n_fits = _SMALL_FITS if options.small else options.fits
    start = time.perf_counter()
    ends, failures = run(n_fits, options.seed)
    for failure in failures:
        print(failure)
    if failures:
        raise SystemExit(f"{len(failures)} of {n_fits} fits failed")
    seconds = time.perf_counter() - start
    rows = [[name, f"{count:,}"] for name, count in ends.most_common()]
    table = Table(["end", "fits"], rows, f"{n_fits:,} fits in {seconds:.0f} s.")
    command = f"python -m benchmarks.numeric_fuzz --fits {n_fits} --seed {options.seed}"
    report("numeric_fuzz", command, [table], options.save and not options.small)


if __name__ == "__main__":
    main()
