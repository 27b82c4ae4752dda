"""Scaling, principal components and norms that belong to the model.

The transformers have scikit-learn's names, arguments and attributes, so they go with its
pipelines. They are fitted to any source by one pass over the data, and a transformed source is
another source: rows are mapped as they are read. ``maps`` holds the maps of rows, ``deferred``
computes them from one shared pass, ``data_units`` inverts them, and ``files`` saves them.
"""

from streamgmm.preprocessing.data_units import DataUnits, in_data_units
from streamgmm.preprocessing.normalizer import Normalizer
from streamgmm.preprocessing.pca import PCA
from streamgmm.preprocessing.scaler import StandardScaler

__all__ = ["PCA", "DataUnits", "Normalizer", "StandardScaler", "in_data_units"]
