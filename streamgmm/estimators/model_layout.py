"""The arrays of a model file: which there may be, and of which type and shape.

Everything follows from the number of components, the number of features and the covariance type
that the header names, so that no array is read before its size is known to be right.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamgmm.archive import Declared
from streamgmm.core.frame import frame_shapes
from streamgmm.core.statistics import sum_shapes
from streamgmm.core.structures import CovarianceStructure, require_structure
from streamgmm.core.structures.low_rank import LOW_RANK_TYPE, public_type, structure_name
from streamgmm.estimators.header_values import entries, whole
from streamgmm.options import CovarianceType

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Size:
    """The size of a mixture in a file.

    Attributes
    ----------
    covariance_type : {"full", "tied", "diag", "spherical", "tied_diag", "tied_spherical"}
    n_components, n_features : int
    """

    covariance_type: CovarianceType
    n_components: int
    n_features: int

    @classmethod
    def of(cls, header: Mapping[str, Any], declared: Mapping[str, Declared]) -> "Size":
        """Return the size that a header names.

        Raises
        ------
        KeyError, TypeError, ValueError
            If something is missing or of the wrong kind.
        """
        settings = entries("settings", header["settings"])
        fitted = entries("fitted values", header["fitted"])
        covariance_type = settings["covariance_type"]
        k = whole("n_components", settings["n_components"], 1)
        is_known = "n_features_in_" in fitted
        if is_known:
            d = whole("n_features_in_", fitted["n_features_in_"], 1)
        else:
            # A model that has learned nothing may have a ridge or a prior for each column.
            names = ("reg_covar", "prior.mean_prior", "prior.covariance_prior")
            d = max(_length(name, declared) for name in names)
        if covariance_type == LOW_RANK_TYPE:
            # Before the first row, the rank that the columns allow is not known, and not needed.
            rank = _rank(settings, declared) if is_known else 0
            covariance_type = structure_name(LOW_RANK_TYPE, rank, d)
        require_structure(covariance_type)
        return cls(covariance_type, k, d)

    @property
    def structure(self) -> CovarianceStructure:
        """The table entry of the covariance type."""
        return require_structure(self.covariance_type)

    def of_settings(self) -> Shapes:
        """Return the shapes of the settings that are arrays."""
        k, d = self.n_components, self.n_features
        return {
            "weights_init": (k,),
            "means_init": (k, d),
            "precisions_init": self.structure.precision_form.shape(k, d),
            "reg_covar": (d,),
            "prior.mean_prior": (d,),
            "prior.covariance_prior": self.structure.prior_shape(d),
        }

    def of_batch(self, declared: Mapping[str, Declared]) -> Shapes:
        """Return the shapes of the arrays of a batch model."""
        k, d = self.n_components, self.n_features
        shape = self.structure.shape(k, d)
        of_covariances: Shapes = {
            "covariances_": shape,
            "precisions_": shape,
            "precisions_cholesky_": shape,
        }
        if public_type(self.covariance_type) == LOW_RANK_TYPE:
            of_covariances = {"loadings_": (k, d, shape[2] - 1), "noise_variances_": (k, d)}
        return {
            "weights_": (k,),
            "means_": (k, d),
            **of_covariances,
            "reg_covar_": (d,),
            "noise_box_": (2, d),
            **self._statistics("statistics.", _length("statistics.frame.centred", declared)),
        }

    def of_stream(self, declared: Mapping[str, Declared]) -> Shapes:
        """Return the shapes of the arrays of a model that learns from a stream."""
        k, d = self.n_components, self.n_features
        shape = self.structure.shape(k, d)
        spread = (d, d) if self.structure.has_directions else (d,)
        found: Shapes = {
            "model.reg_covar": (d,),
            "model.prior.mean": (d,),
            "model.prior.covariance": spread,
        }
        for part in ("model", "reference"):
            found |= {
                f"{part}.weights": (k,),
                f"{part}.means": (k, d),
                f"{part}.covariances": shape,
                f"{part}.factors": shape,
            }
        n_centred = _length("model.total.frame.centred", declared)
        for part in ("total", "recent", "average"):
            found |= self._statistics(f"model.{part}.", n_centred)
        for buffer in ("held", "latest"):
            n_rows = _length(f"{buffer}.weights", declared)
            found |= {f"{buffer}.rows": (n_rows, d), f"{buffer}.weights": (n_rows,)}
        return found

    def _statistics(self, prefix: str, n_centred: int) -> Shapes:
        size = self.covariance_type, n_centred, self.n_features
        frame = {f"frame.{name}": shape for name, shape in frame_shapes(*size).items()}
        sums = sum_shapes(self.covariance_type, self.n_components, self.n_features)
        return {prefix + name: shape for name, shape in {**frame, **sums}.items()}


def check_arrays(header: Mapping[str, Any], declared: Mapping[str, Declared]) -> None:
    """Refuse the header of no model, and arrays that a model of its size does not have.

    Raises
    ------
    KeyError, TypeError, ValueError
        If an array is unknown, or has the wrong type or shape.
    """
    size = Size.of(header, declared)
    is_batch = header["estimator"] == "GaussianMixture"
    settings = size.of_settings()
    shapes = settings | (size.of_batch(declared) if is_batch else size.of_stream(declared))
    for name, array in declared.items():
        if name not in shapes:
            raise ValueError(f"it holds an unknown array {name[:80]!r}")
        if array.shape != shapes[name]:
            raise ValueError(f"{name} has shape {array.shape}; expected {shapes[name]}")
        is_right = array.dtype.newbyteorder("=") == np.float64
        if name.endswith("centred"):
            is_right = array.dtype.kind in "iu"
        if not is_right and name not in settings:
            raise ValueError(f"{name} holds {array.dtype}")


def _rank(settings: Mapping[str, Any], declared: Mapping[str, Declared]) -> int | None:
    """Return the rank of the arrays of a model of low rank, or that of its settings."""
    for name, spare in (("loadings_", 0), ("model.covariances", 1)):
        if name in declared:
            shape = declared[name].shape
            if len(shape) != 3:
                raise ValueError(f"{name} has shape {shape}; expected three axes")
            return shape[2] - spare
    rank = settings.get("rank")
    return None if rank is None else whole("rank", rank)


def _length(name: str, declared: Mapping[str, Declared]) -> int:
    """Return the length of an array, 0 if it is not there."""
    return declared[name].shape[0] if name in declared and declared[name].shape else 0
