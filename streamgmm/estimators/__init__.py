"""Thin scikit-learn faces over the algorithms.

Only this package and ``preprocessing`` may import scikit-learn, and of it only ``sklearn.base``,
pipelines and its validation. Data that scikit-learn knows (arrays, lists, DataFrames) are validated
by it; all else by its source. ``row_estimator`` holds what all of them share, ``base`` what any
fitted mixture can do; ``gaussian_mixture`` fits data that are there, ``online_mixture`` data that
keep coming, ``kmeans`` finds clusters, and ``mixture_search`` chooses the number of components;
``merging`` says which models go together; ``records`` and ``online_records`` turn models into what
files hold, and ``loading`` writes files and reads them.
"""

from streamgmm.estimators.gaussian_mixture import GaussianMixture
from streamgmm.estimators.kmeans import KMeans
from streamgmm.estimators.loading import load, save
from streamgmm.estimators.mixture_search import GaussianMixtureSearch
from streamgmm.estimators.online_mixture import OnlineGaussianMixture

__all__ = [
    "GaussianMixture",
    "GaussianMixtureSearch",
    "KMeans",
    "OnlineGaussianMixture",
    "load",
    "save",
]
