"""Criteria that a fit knows without a pass, and the criteria of any data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
from sklearn.mixture import GaussianMixture as SklearnGaussianMixture

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.core.structures import Array
from streamgmm.errors import ModelFileError
from streamgmm.persistence import Record, read_record, write_record
from tests.core.cases import ALL_TYPES

NAMES = ("bic", "aic", "icl")


@pytest.fixture(scope="module")
def rows() -> Array:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [3.0, 1.0], [0.0, 4.0]])
    return centres[rng.integers(0, 3, 600)] + rng.normal(size=(600, 2)) * [1.0, 0.6]


def known(model: GaussianMixture) -> list[float]:
    return [getattr(model, f"{name}_") for name in NAMES]


def assert_known(model: GaussianMixture, X: Any, **weights: Any) -> None:
    expected = [getattr(model, name)(X, **weights) for name in NAMES]
    np.testing.assert_allclose(known(model), expected, rtol=1e-11)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
@pytest.mark.parametrize("algorithm", ["auto", "hard"])
def test_a_fit_knows_its_criteria(rows: Array, covariance_type: Any, algorithm: str) -> None:
    model = GaussianMixture(
        3, covariance_type=covariance_type, algorithm=algorithm, random_state=0
    ).fit(rows)
    n_reads = model.n_reads_
    assert_known(model, rows)
    gamma = model.predict_proba(rows)
    entropy = -scipy.special.xlogy(gamma, gamma).sum()
    assert model.icl_ == pytest.approx(model.bic(rows) + 2.0 * entropy, rel=1e-10)
    n_parameters = 0.5 * model.aic_ + len(rows) * model.score(rows)
    assert model.n_parameters_ == pytest.approx(n_parameters, rel=1e-9)
    assert model.n_reads_ == n_reads
    if covariance_type in ("full", "tied"):
        theirs: SklearnGaussianMixture = model.to_sklearn()
        assert model.bic_ == pytest.approx(theirs.bic(rows), rel=1e-11)
        assert model.n_parameters_ == theirs._n_parameters()


@pytest.mark.parametrize("algorithm", ["auto", "hard"])
def test_weights_missing_values_and_fixed_parameters(rows: Array, algorithm: str) -> None:
    rng = np.random.default_rng(1)
    weights = rng.uniform(0.5, 2.0, len(rows))
    gaps = rng.random(rows.shape) < 0.2
    gaps[:, 0] &= ~gaps[:, 1]
    source = streamgmm.open(np.where(gaps, np.nan, rows), missing="em", sample_weight=weights)
    model = GaussianMixture(
        2, algorithm=algorithm, random_state=0, fixed={"weights"}, weights_init=[0.4, 0.6]
    ).fit(source)
    assert_known(model, source)
    gamma = model.predict_proba(source)
    entropy = -(weights @ scipy.special.xlogy(gamma, gamma)).sum()
    assert model.icl_ - model.bic_ == pytest.approx(2.0 * entropy, rel=1e-8)
    assert model.n_parameters_ == 2 * 2 + 2 * 3


def test_hard_assignment_is_evaluated_wherever_it_ends(rows: Array) -> None:
    settings: dict[str, Any] = {"algorithm": "hard", "random_state": 0, "tol": 0.0}
    with pytest.warns(UserWarning, match="did not converge"):
        model = GaussianMixture(3, max_iter=2, **settings).fit(rows)
    assert_known(model, rows)
    assert [read["purpose"] for read in model.history_][-2:] == ["iteration", "criteria"]


@pytest.mark.parametrize("name", [*NAMES, "n_parameters"])
def test_where_no_pass_has_evaluated_the_parameters(rows: Array, name: str) -> None:
    start = {"weights_init": [1.0], "means_init": [[0.0, 0.0]], "precisions_init": [np.eye(2)]}
    models = [
        GaussianMixture(),
        GaussianMixture(algorithm="em").fit(rows),
        GaussianMixture(max_iter=0, **start).fit(rows),
        GaussianMixture(random_state=0).fit(rows).marginal([0]),
        GaussianMixture().fit(rows).set_params(algorithm="em").fit(rows),
        GaussianMixture.from_sklearn(SklearnGaussianMixture(random_state=0).fit(rows)),
        OnlineGaussianMixture(1).partial_fit(rows).to_batch(),
    ]
    for model in models:
        with pytest.raises(AttributeError, match=rf"no {name}_.*bic\(X\)|{name}\(X\)"):
            getattr(model, f"{name}_")
    # The remedy.
    assert np.isfinite(models[1].bic(rows))
    assert not hasattr(OnlineGaussianMixture(1).partial_fit(rows), f"{name}_")


def test_files_keep_the_criteria(rows: Array, tmp_path: Path) -> None:
    path = tmp_path / "m.gmm"
    for algorithm in ("auto", "hard"):
        model = GaussianMixture(2, algorithm=algorithm, random_state=0).fit(rows)
        model.save(path)
        assert known(streamgmm.load(path)) == known(model)
    record = read_record(path, lambda header, declared: None)
    without = {name: value for name, value in record.header.items() if name != "criteria"}
    write_record(tmp_path / "old.gmm", Record(without, record.arrays))
    with pytest.raises(AttributeError, match=r"bic\(X\)"):
        _ = streamgmm.load(tmp_path / "old.gmm").bic_
    for wrong in ({"n_rows": 0.0}, {"entropy": -1.0}, {"n_parameters": 1.5}, {"other": 1}):
        header = {**record.header, "criteria": {**record.header["criteria"], **wrong}}
        write_record(tmp_path / "bad.gmm", Record(header, record.arrays))
        with pytest.raises(ModelFileError):
            streamgmm.load(tmp_path / "bad.gmm")


def test_a_fit_that_continues_a_checkpoint_knows_them_too(rows: Array, tmp_path: Path) -> None:
    model = GaussianMixture(2, algorithm="hard", random_state=0, checkpoint=tmp_path / "c")
    model.fit(rows)
    again = GaussianMixture(2, algorithm="hard", random_state=0, checkpoint=tmp_path / "c")
    assert known(again.fit(rows, resume=True)) == known(model)
    assert known(streamgmm.load(tmp_path / "c" / "model.gmm")) == known(model)
