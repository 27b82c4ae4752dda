"""What every source of data with missing values promises."""

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streamgmm import GaussianMixture, OnlineGaussianMixture, update
from streamgmm import open as open_data
from streamgmm.errors import DataError
from streamgmm.protocols import Source


@dataclass(frozen=True)
class MarkedCase:
    """Data of which the container says that some values are missing.

    Attributes
    ----------
    data : object
        What ``open`` takes, with ``options``.
    rows : ndarray of shape (N, D)
        What there is, with NaN for missing values.
    said : str
        How messages say that values are missing, as a pattern.
    """

    data: Any
    rows: NDArray[np.float64]
    said: str
    options: dict[str, Any] = field(default_factory=dict)

    def open(self, **settings: Any) -> Source:
        return open_data(self.data, **self.options, **settings)

    @property
    def is_complete(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.rows).any(axis=1)


class MissingValuesConformance(ABC):
    """Missing values are refused, or are NaN where they are allowed; subclasses make a case."""

    @pytest.fixture
    @abstractmethod
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> MarkedCase:
        """The data under test."""

    @staticmethod
    def model(case: MarkedCase) -> GaussianMixture:
        return GaussianMixture(2, random_state=0).fit(case.rows[case.is_complete])

    def test_each_method_refuses_them(self, case: MarkedCase, tmp_path: Path) -> None:
        model, said = self.model(case), rf"(missing value\(s\) \(|X has ){case.said}"
        path = tmp_path / "model.gmm"
        OnlineGaussianMixture(2, random_state=0).fit(case.rows[case.is_complete]).save(path)
        calls: list[Callable[[Any], Any]] = [
            GaussianMixture(2).fit,
            lambda data: np.asarray(model.predict(data)),
            lambda data: np.asarray(model.predict_proba(data)),
            lambda data: np.asarray(model.score_samples(data)),
            model.score,
            OnlineGaussianMixture(2).partial_fit,
            lambda data: update(path, data, batch_id="a"),
        ]
        for call in calls:
            with pytest.raises(DataError, match=said):
                call(case.open())

    def test_chunks_hold_nan_where_missing_values_are_allowed(self, case: MarkedCase) -> None:
        for missing in ("drop", "em"):
            source = case.open(missing=missing)
            assert source.dtype.kind == "f"
            for i in range(len(source.boundaries) - 1):
                chunk = source.read(i)
                assert type(chunk.rows) is np.ndarray
                assert chunk.rows.dtype == source.dtype
                np.testing.assert_array_equal(chunk.rows, case.rows[chunk.index])
            copy = pickle.loads(pickle.dumps(source))
            np.testing.assert_array_equal(copy.read(0).rows, source.read(0).rows)

    def test_a_mean_leaves_them_out(self, case: MarkedCase) -> None:
        mean = case.rows[case.is_complete].mean(axis=0)
        fitted = GaussianMixture(1).fit(case.open(missing="drop"))
        np.testing.assert_allclose(fitted.means_[0], mean, rtol=1e-6)
        online = OnlineGaussianMixture(1).partial_fit(case.open(missing="drop"))
        np.testing.assert_allclose(online.means_[0], mean, rtol=1e-6)

    def test_their_rows_are_used_as_those_with_nan_are(self, case: MarkedCase) -> None:
        own = GaussianMixture(1).fit(case.open(missing="em"))
        other = GaussianMixture(1).fit(open_data(case.rows, missing="em"))
        np.testing.assert_allclose(own.means_, other.means_, rtol=1e-6)
        np.testing.assert_allclose(own.covariances_, other.covariances_, rtol=1e-5)

    def test_predictions_and_scores_leave_them_out(self, case: MarkedCase) -> None:
        model, kept = self.model(case), case.is_complete
        labels = np.asarray(model.predict(case.open(missing="drop"))).ravel()
        np.testing.assert_array_equal(labels[kept], model.predict(case.rows[kept]))
        assert (labels[~kept] == -1).all()
        score = model.score(case.open(missing="drop"))
        np.testing.assert_allclose(score, model.score(case.rows[kept]), rtol=1e-6)

    def test_weights_change_nothing_of_it(self, case: MarkedCase) -> None:
        weights = np.linspace(1.0, 2.0, len(case.rows))
        kept = case.is_complete
        mean = np.average(case.rows[kept], axis=0, weights=weights[kept])
        fitted = GaussianMixture(1).fit(case.open(missing="drop", sample_weight=weights))
        np.testing.assert_allclose(fitted.means_[0], mean, rtol=1e-6)
        described = open_data(case.open(sample_weight=weights, missing="em"), missing="drop")
        np.testing.assert_allclose(GaussianMixture(1).fit(described).means_[0], mean, rtol=1e-6)
