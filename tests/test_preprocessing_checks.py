"""The transformers keep scikit-learn's own contract for estimators."""

from collections.abc import Callable
from typing import Any

from sklearn.utils.estimator_checks import parametrize_with_checks

from streamgmm.preprocessing import PCA, Normalizer, StandardScaler


@parametrize_with_checks(
    [
        StandardScaler(),
        StandardScaler(with_mean=False, with_std=False),
        PCA(),
        PCA(1, whiten=True),
        Normalizer(),
    ],
)
def test_transformer_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)
