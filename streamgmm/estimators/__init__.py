"""Thin scikit-learn faces over the algorithms.

Only this package may import scikit-learn, and of it only ``sklearn.base`` and its validation.
Data that scikit-learn knows (arrays, lists, DataFrames) are validated by it; all else by its
source. ``fitted`` holds what any fitted mixture can do, ``gaussian_mixture`` fits, and
``records`` turns models into what files hold.
"""

from streamgmm.estimators.gaussian_mixture import GaussianMixture, load

__all__ = ["GaussianMixture", "load"]
