"""The estimators keep scikit-learn's own contract for estimators."""

from collections.abc import Callable
from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from streamgmm import GaussianMixture, GaussianMixtureSearch, OnlineGaussianMixture

Model = GaussianMixture | GaussianMixtureSearch | OnlineGaussianMixture


def expected_failures(estimator: Model) -> dict[str, str]:
    # Starts of a batch fit to these rows end at the same optimum.
    if estimator.n_components == 1 or isinstance(estimator, GaussianMixture):
        return {}
    return {
        "check_sample_weight_equivalence_on_dense_data": (
            "a start is drawn from rows, so repeated rows draw another one than row weights; "
            "from the same start they are equivalent"
        )
    }


@parametrize_with_checks(
    [
        GaussianMixture(),
        GaussianMixture(n_components=2, covariance_type="diag", random_state=0),
        OnlineGaussianMixture(),
        OnlineGaussianMixture(n_components=2, covariance_type="diag", random_state=0),
        GaussianMixtureSearch(n_components=(1, 2), covariance_type="diag", random_state=0),
    ],
    expected_failed_checks=expected_failures,
)
# The checks fit few rows and repeated ones, and what these warnings say of such fits is true.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
def test_estimator_checks(estimator: Model, check: Callable[[Any], None]) -> None:
    check(estimator)
