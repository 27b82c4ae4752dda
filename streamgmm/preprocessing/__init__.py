"""Scaling, principal components and norms that belong to the model.

The transformers have scikit-learn's names, arguments and attributes, so they go with its
pipelines. They are fitted to any source by one pass over the data, and a transformed source is
another source: rows are mapped as they are read. ``maps`` holds what is done to rows, ``deferred``
how maps are found from one shared pass, and ``data_units`` the way back.
"""

from streamgmm.preprocessing.normalizer import Normalizer
from streamgmm.preprocessing.pca import PCA
from streamgmm.preprocessing.scaler import StandardScaler

__all__ = ["PCA", "Normalizer", "StandardScaler"]
