"""Views of a mixture: the features, or the combinations of features, that a picture shows."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.errors import NotFittedError, ParameterError
from streamgmm.quantities import printable
from streamgmm.sources.columns import chosen_columns

#: Features to show, by number or by name.
Features = int | str | Sequence[int | str] | None

# Largest number of features in a direction: those that separate the components best.
_MOST_COMBINED = 256
# Parts of the variance along a direction below which means, or covariances, do not separate.
_LEAST_BETWEEN, _LEAST_DIFFERENCE = 0.01, 1e-4
# Number that is added to the diagonal of a singular correlation matrix.
_RIDGE = 1e-9
# Features that the name of a direction lists: at most, and the smallest part of the largest.
_MOST_TERMS, _LEAST_TERM = 3, 0.1
_LONGEST_NAME, _LONGEST_LINE = 24, 60
_HARD_SPACE = "\N{NO-BREAK SPACE}"
_PLUS, _MINUS = f"+{_HARD_SPACE}", f"\N{MINUS SIGN}{_HARD_SPACE}"


@dataclass(frozen=True, eq=False)
class View:
    """Axes that a mixture and its rows are projected on.

    Attributes
    ----------
    columns : list of int
        The c features that the axes are made of.
    origin : ndarray of shape (c,)
    axes : ndarray of shape (m, c)
    labels : list of str
    note : str
        How the axes were chosen; empty if the caller chose them.
    """

    columns: list[int]
    origin: Array
    axes: Array
    labels: list[str]
    note: str = ""

    @classmethod
    def of(cls, model: Any, features: Features, most: int = 2) -> "View":
        """Return the view of given features, or the one that separates the components best.

        Parameters
        ----------
        model : GaussianMixture or OnlineGaussianMixture
            Fitted.
        features : sequence of int or str, int, str, or None
            None for all features if there are one or two.
        most : int
            Largest number of features.

        Raises
        ------
        ParameterError
            If these are no features of the model, or too many.
        """
        d = model.means_.shape[1]
        if features is None and d > 2:
            return _separating(model.fitted_model_.parameters, model)
        columns = [*range(d)] if features is None else columns_of(model, features)
        if len(columns) > most:
            raise ParameterError(
                f"features name {len(columns)} columns, and this picture shows one or two; "
                "plot_pairs shows more"
            )
        labels = [feature_name(model, column) for column in columns]
        return cls(columns, np.zeros(len(columns)), np.eye(len(columns)), labels)

    @property
    def is_of_features(self) -> bool:
        """Whether each axis is one feature."""
        return np.array_equal(self.axes, np.eye(len(self.columns)))

    def rows(self, values: Array) -> Array:
        """Return the projections (n, m) of values (n, c) of the columns."""
        found: Array = (values - self.origin) @ self.axes.T
        return found

    def components(self, model: Any) -> tuple[Array, Array]:
        """Return the means (K, m) and covariances (K, m, m) of the projected components."""
        parameters = model.fitted_model_.parameters
        means = self.rows(parameters.means[:, self.columns])
        covariances = [
            self.axes @ covariance_of(parameters, k, self.columns) @ self.axes.T
            for k in range(parameters.n_components)
        ]
        return means, np.stack(covariances)


def check_fitted(model: Any) -> None:
    """Refuse to draw an object that is no mixture, or is not fitted.

    Raises
    ------
    NotFittedError
    ParameterError
    """
    name = type(model).__name__
    if not hasattr(model, "covariance_type"):
        raise ParameterError(
            f"model is a {name}; give a fitted GaussianMixture or OnlineGaussianMixture"
        )
    if not hasattr(model, "means_"):
        raise NotFittedError(f"this {name} is not fitted yet; fit it to data before it is drawn")


def columns_of(model: Any, features: Features) -> list[int]:
    """Return the numbers of features that are given by number or name.

    Raises
    ------
    ParameterError
        If there is no such feature, or one is given twice.
    """
    is_one = isinstance(features, str) or not isinstance(features, Iterable)
    names = getattr(model, "feature_names_in_", None)
    given: Any = [features] if is_one else features
    return chosen_columns(
        given,
        model.means_.shape[1],
        None if names is None else list(names),
    )


def feature_name(model: Any, column: int) -> str:
    """Return the name of a feature as matplotlib shows it, shortened if it is long."""
    names = getattr(model, "feature_names_in_", None)
    if names is None:
        return f"feature {column}"
    name = printable(str(names[column]))
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME - 1]}…"
    # Dollars would begin a formula.
    return name.replace("$", r"\$")


def covariance_of(parameters: Parameters, k: int, columns: Sequence[int]) -> Array:
    """Return the covariance (m, m) of some features in component k."""
    structure = parameters.structure
    one = structure.taken(parameters.covariances, np.array([k]))
    found: Array = structure.dense(structure.stacked(one, 1, parameters.n_features), columns)[0]
    return found


def most_separating(parameters: Parameters, n_features: int) -> list[int]:
    """Return the features whose variance lies most between the components, in their order."""
    within, between = _feature_variances(parameters)
    order = np.argsort(-between / (within + between), kind="stable")
    return sorted(order[:n_features].tolist())


def _feature_variances(parameters: Parameters) -> tuple[Array, Array]:
    """Return the variances (D,) within the components, and between their means."""
    weights, structure = parameters.weights, parameters.structure
    variances = structure.variances(
        structure.stacked(parameters.covariances, *parameters.means.shape)
    )
    within = weights @ np.broadcast_to(variances, parameters.means.shape)
    between = weights @ (parameters.means - weights @ parameters.means) ** 2
    return within, between


def _separating(parameters: Parameters, model: Any) -> View:
    """Return the view along two directions that separate the components best.

    A direction is a combination of features in units of their standard deviation. Each is the one
    with the largest part of the variance between the means of the components; where the means do
    not differ any more, the one along which covariances differ most; and where these do not
    differ, the one of largest variance. The second is uncorrelated with the first.

    References
    ----------
    Fisher (1936), The use of multiple measurements in taxonomic problems.
    Scrucca (2010), Dimension reduction for model-based clustering.
    """
    columns = most_separating(parameters, _MOST_COMBINED)
    within, between = _feature_variances(parameters)
    scale = np.sqrt(within + between)[columns]
    origin = (parameters.weights @ parameters.means)[columns]
    means = (parameters.means[:, columns] - origin) / scale
    axes, reasons = _directions(parameters, columns, means, scale)
    labels = [
        _combination(i + 1, direction, [feature_name(model, column) for column in columns])
        for i, direction in enumerate(axes)
    ]
    return View(columns, origin, axes / scale, labels, _note(reasons))


def _directions(
    parameters: Parameters, columns: list[int], means: Array, scale: Array
) -> tuple[Array, list[str]]:
    """Return two directions (2, c) of length 1, and the reason for each."""
    units = np.outer(scale, scale)
    weights = parameters.weights

    def covariances() -> Iterable[Array]:
        return (covariance_of(parameters, k, columns) / units for k in range(len(weights)))

    within = np.zeros(units.shape)
    for w, own in zip(weights, covariances(), strict=True):
        within += w * own
    between = (weights * means.T) @ means
    total = within + between + _RIDGE * np.eye(len(columns))
    factor = np.asarray(np.linalg.cholesky(total), dtype=np.float64)

    def whitened(matrix: Array) -> Array:
        half = scipy.linalg.solve_triangular(factor, matrix, lower=True)
        found: Array = scipy.linalg.solve_triangular(factor, half.T, lower=True)
        return found

    differences = np.zeros(units.shape)
    for w, own in zip(weights, covariances(), strict=True):
        difference = whitened(own - within)
        differences += w * difference @ difference
    criteria = (
        ("means", whitened(between), _LEAST_BETWEEN),
        ("covariances", differences, _LEAST_DIFFERENCE),
        # A direction of length 1 has the largest variance if, at variance 1, it is shortest.
        ("variance", -whitened(np.eye(len(columns))), 0.0),
    )
    basis, found, reasons = np.eye(len(columns)), [], []
    for _ in range(2):
        reason, vectors = _first_that_differs(basis, criteria)
        best: Array = basis @ vectors[:, -1]
        found.append(_direction(factor, best))
        reasons.append(reason)
        basis = basis @ vectors[:, :-1]
    return np.stack(found), reasons


def _first_that_differs(
    basis: Array, criteria: Sequence[tuple[str, Array, float]]
) -> tuple[str, Array]:
    """Return the first criterion with an eigenvalue above its least one, and its eigenvectors.

    The eigenvectors are those within the span of a basis, in its coordinates; the best is the last.
    """
    for reason, matrix, least in criteria[:-1]:
        values, vectors = np.linalg.eigh(basis.T @ matrix @ basis)
        if values[-1] > least:
            return reason, vectors
    reason, matrix, _ = criteria[-1]
    return reason, np.linalg.eigh(basis.T @ matrix @ basis)[1]


def _direction(factor: Array, whitened: Array) -> Array:
    """Return a direction of length 1 whose largest coefficient is positive."""
    direction = scipy.linalg.solve_triangular(factor.T, whitened, lower=False)
    largest = direction[np.argmax(np.abs(direction))]
    unit: Array = direction * (np.sign(largest) / np.linalg.norm(direction))
    return unit


def _note(reasons: list[str]) -> str:
    """Return a sentence on two directions."""
    units = "features in units of their standard deviation"
    if reasons == ["variance", "variance"]:
        return f"directions of largest variance; {units}"
    if reasons[1] == "variance":
        return f"direction 1 separates the components best, 2 has the largest variance; {units}"
    return f"directions that separate the components best; {units}"


def _combination(number: int, direction: Array, names: list[str]) -> str:
    """Return the name of a direction: its largest coefficients and their features."""
    order = np.argsort(-np.abs(direction), kind="stable")
    is_large = np.abs(direction[order]) >= _LEAST_TERM * np.abs(direction[order[0]])
    shown: NDArray[np.intp] = order[is_large][:_MOST_TERMS]
    terms = [_term(direction[j], names[j]) for j in shown]
    more = " …" if is_large.sum() > len(shown) else ""
    text = f"direction {number}: {' '.join(terms).removeprefix(_PLUS)}{more}"
    return textwrap.fill(text, _LONGEST_LINE)


def _term(coefficient: float, name: str) -> str:
    """Return a term of a sum, in which no line breaks."""
    sign = _PLUS if coefficient >= 0.0 else _MINUS
    return f"{sign}{abs(coefficient):.2f} {name}".replace(" ", _HARD_SPACE)
