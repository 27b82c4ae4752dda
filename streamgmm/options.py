"""The values that options can take, declared once for types, validation and the command line."""

from typing import Literal

Algorithm = Literal["auto", "em", "hard"]
Arithmetic = Literal["auto", "float64", "float32"]
CovarianceType = Literal[
    "full", "tied", "diag", "spherical", "tied_diag", "tied_spherical", "low_rank"
]
ExecutorName = Literal["auto", "threads", "dask"]
Format = Literal["npy", "zarr", "hdf5", "netcdf", "parquet"]
InitParams = Literal["kmeans", "k-means++", "random", "random_from_data"]
Missing = Literal["error", "drop", "em"]
ParameterName = Literal["weights", "means", "covariances"]
NoiseName = Literal["uniform"]
PriorName = Literal["fraley-raftery", "chen-tan"]
Criterion = Literal["bic", "aic", "icl", "held_out"]
