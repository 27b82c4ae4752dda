"""Models that learn from a stream as records of a file: all of what they continue from."""

from collections.abc import Mapping
from dataclasses import astuple, replace
from typing import Any

import numpy as np

from streamgmm.algorithms.stream.change_detection import (
    MOST_ENTRIES,
    ChangeTest,
    Score,
    ScoreRecord,
)
from streamgmm.algorithms.stream.row_buffer import RowBuffer
from streamgmm.algorithms.stream.stepwise_em import Schedule, Stepwise
from streamgmm.algorithms.stream.stream_state import Plan, Progress
from streamgmm.core.accuracy import LARGEST_VALUE
from streamgmm.core.data_moments import DataMoments
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters, require_values
from streamgmm.core.priors import (
    ChenTan,
    ChenTanPenalty,
    ConjugatePrior,
    Prior,
    completed_prior,
    prior_of,
)
from streamgmm.core.structures.low_rank import structure_name
from streamgmm.errors import OutputError
from streamgmm.estimators.described_data import from_header
from streamgmm.estimators.header_values import (
    amount,
    any_number,
    known,
    listed,
    number,
    positive,
    truth,
    whole,
)
from streamgmm.estimators.online_state import OnlineState
from streamgmm.estimators.records import (
    feature_names,
    pack_settings,
    require_ridge,
    unpack_settings,
)
from streamgmm.estimators.validation import check_settings
from streamgmm.events import SkippedRows
from streamgmm.ledger import Ledger
from streamgmm.options import CovarianceType
from streamgmm.persistence import (
    Record,
    pack_statistics,
    prefixed,
    unpack_statistics,
    without_prefix,
)

_PARAMETERS = ("weights", "means", "covariances", "factors")
_STATISTICS = ("total", "recent", "average")
_FRAME = "frame."
_HELD = ("held", "latest")
_COUNTS = ("next_search", "n_seen", "n_searches")
#: Fitted attributes in the header, each with a check of what a file says.
_LOSS = "merging_loss_"
_FITTED = {"n_features_in_": whole, _LOSS: any_number}
# Seeds of NumPy's generators are below 2^32.
_LARGEST_SEED = 2**32 - 1
# Older files do not have these.
_BLOCK = ("n_pending", "step_weight")


def to_online_record(model: Any) -> Record:
    """Return a model and how far it has learned, if it has begun, as what a file holds."""
    prior = prior_of(model.prior)
    if not (prior is None or isinstance(prior, Prior | ChenTan)):
        raise OutputError(
            f"the prior is a {type(prior).__name__}, which a file cannot hold, so a loaded model "
            "would continue without it; save a model whose prior is a name or a streamgmm.Prior"
        )
    header, arrays = pack_settings(model)
    state: OnlineState = model.state_
    header["ledger"] = state.ledger.to_header()
    progress = state.progress
    if progress is None:
        return Record(header, arrays)
    header["plan"] = {
        **{name: getattr(progress.plan, name) for name in ("n_components", "init_size", "seed")},
        "schedule": list(astuple(progress.plan.schedule)),
    }
    header["progress"] = {
        **{name: getattr(progress, name) for name in (*_COUNTS, *_BLOCK)},
        "changes": list(progress.changes),
        "test": list(astuple(progress.test)),
        "skipped": list(astuple(progress.skipped)),
        "record": [progress.record.width, progress.record.last, *progress.record.entries],
    }
    for name in _HELD:
        held: RowBuffer | None = getattr(progress, name)
        if held is not None and held.n_rows:
            arrays |= prefixed(f"{name}.", {"rows": held.rows, "weights": held.weights})
    header["progress"]["is_holding"] = progress.held is not None
    if progress.reference is not None:
        own = {name: getattr(progress.reference, name) for name in _PARAMETERS}
        arrays |= prefixed("reference.", own)
    if progress.model is not None:
        header["model"], own = _pack_model(progress.model)
        arrays |= prefixed("model.", own)
    if state.merging_loss is not None:
        header["fitted"][_LOSS] = state.merging_loss
    return Record(header, arrays)


def from_online_record(estimator: type, record: Record) -> Any:
    """Return the model that :func:`to_online_record` made a record of.

    Raises
    ------
    KeyError, TypeError, ValueError
        If something is missing, unknown, or of the wrong kind.
    """
    header, arrays = record.header, record.arrays
    model = estimator(**unpack_settings(record))
    check_settings(model)
    fitted = known("fitted values", header["fitted"], _FITTED)
    if "n_features_in_" in fitted:
        model.n_features_in_ = fitted["n_features_in_"]
        names = feature_names(record, model.n_features_in_)
        if names is not None:
            model.feature_names_in_ = names
    described = from_header(header)
    if described is not None:
        model.data_description_ = described
    model.state_ = OnlineState(
        _progress(model, header, arrays) if "plan" in header else None,
        # Files of release 0.1 have no ledger.
        Ledger.from_header(header["ledger"]) if "ledger" in header else Ledger(),
        fitted.get(_LOSS),
    )
    return model


def _progress(model: Any, header: Mapping[str, Any], arrays: Mapping[str, Any]) -> Progress:
    """Return how far a model has learned, by the header and the arrays of its file."""
    plan = _plan(model, header["plan"])
    stepwise = None
    if "model" in header:
        own = without_prefix("model.", arrays)
        # Older files hold one number in the plan.
        ridge = own["reg_covar"] if "reg_covar" in own else header["plan"]["reg_covar"]
        stepwise = _unpack_model(header["model"], own, plan, model, ridge)
    kept = header["progress"]
    is_holding = truth("is_holding", kept["is_holding"])
    held, latest = (_held(name, without_prefix(f"{name}.", arrays)) for name in _HELD)
    reference = without_prefix("reference.", arrays)
    # Older files have no rows of a block that has not ended: their model has learned all rows.
    n_pending = whole("n_pending", kept.get("n_pending", 0))
    if n_pending > latest.n_rows:
        raise ValueError(f"{n_pending} of its {latest.n_rows} latest rows are to be learned")
    step_weight = kept.get("step_weight", 0.0 if stepwise is None else stepwise.recent.weight)
    progress = Progress(
        plan,
        stepwise,
        held if is_holding else None,
        latest=latest,
        n_pending=n_pending,
        step_weight=amount("step_weight", step_weight),
        reference=_parameters(model, reference) if reference else None,
        record=_score_record(kept["record"]),
        test=_change_test(kept["test"]),
        changes=tuple(number("changes", entry) for entry in listed("changes", kept["changes"])),
        # Files of release 0.1 do not count skipped rows.
        skipped=SkippedRows(*(whole("skipped", n) for n in kept.get("skipped", ()))),
        next_search=whole("next_search", kept["next_search"]),
        n_seen=amount("n_seen", kept["n_seen"]),
        n_searches=whole("n_searches", kept["n_searches"]),
    )
    if stepwise is None and not is_holding:
        raise ValueError("it has neither a mixture nor rows to search for one")
    # If no search is ever due, the stream would be buffered without end.
    if is_holding and not (
        plan.fewest_rows <= progress.next_search <= plan.init_size and held.n_rows < plan.init_size
    ):
        raise ValueError(f"its next search is due after {progress.next_search} rows")
    if plan.seed + progress.n_searches > _LARGEST_SEED:
        raise ValueError("its seed is too large")
    # If no step is ever due, the stream would be buffered without end.
    if stepwise is not None:
        positive("step_rows", stepwise.step_rows)
    return progress


def _asked_structure(model: Any) -> CovarianceType:
    """Return the name of the covariance structure of a model whose columns are known."""
    return structure_name(model.covariance_type, model.rank, model.n_features_in_)


def _parameters(model: Any, arrays: Mapping[str, Any]) -> Parameters:
    structure = _asked_structure(model)
    parameters = Parameters(structure, *(arrays[name] for name in _PARAMETERS))
    parameters.check()
    return parameters


def _plan(model: Any, header: Mapping[str, Any]) -> Plan:
    offset, decay, half_life = header["schedule"]
    schedule = Schedule(
        positive("learning_offset", offset),
        number("learning_decay", decay, 0.5),
        None if half_life is None else positive("half_life", half_life),
    )
    n_components = whole("n_components", header["n_components"], 1)
    if n_components != model.n_components or schedule.decay > 1.0:
        raise ValueError("its plan does not agree with its settings")
    plan = Plan(
        n_components,
        schedule,
        whole("init_size", header["init_size"], 1),
        whole("seed", header["seed"]),
    )
    if plan.init_size < plan.fewest_rows:
        raise ValueError(f"its first search is among {plan.init_size} rows")
    return plan


def _score_record(content: Any) -> ScoreRecord:
    width, last, *others = listed("record", content, 2 + MOST_ENTRIES)
    return ScoreRecord(
        tuple(map(_score, others)),
        None if last is None else _score(last),
        amount("width", width),
    )


def _score(content: Any) -> Score:
    weight, log_likelihood = content
    return Score(positive("weight", weight), number("log_likelihood", log_likelihood))


def _change_test(content: Any) -> ChangeTest:
    n_blocks, mean, variance, excess = content
    return ChangeTest(
        whole("n_blocks", n_blocks),
        number("mean", mean),
        amount("variance", variance),
        amount("excess", excess),
    )


def _held(name: str, arrays: Mapping[str, Any]) -> RowBuffer:
    if not arrays:
        return RowBuffer()
    rows, weights = arrays["rows"], arrays["weights"]
    # NaN stands for a missing value.
    if np.any(np.abs(rows) > LARGEST_VALUE) or not np.all((weights > 0.0) & (weights < np.inf)):
        raise ValueError(f"its {name} rows hold values or weights that cannot be used")
    return RowBuffer(((rows, weights),), len(rows))


def _pack_model(model: Stepwise) -> tuple[dict[str, Any], dict[str, Any]]:
    header: dict[str, Any] = {"n_rows": model.n_rows, "n_steps": model.n_steps}
    arrays = {name: getattr(model.parameters, name) for name in _PARAMETERS}
    arrays["reg_covar"] = np.asarray(model.objective.reg_covar)
    prior = model.objective.prior
    if isinstance(prior, ConjugatePrior | ChenTanPenalty):
        moments = prior.moments
        header["prior_rows"] = moments.n_rows
        own = {"mean": moments.mean, "covariance": moments.covariance}
        arrays |= prefixed("prior.", own)
    for name in _STATISTICS:
        statistics = getattr(model, name)
        if statistics is not None:
            header[name], own = pack_statistics(statistics)
            arrays |= prefixed(f"{name}.", own if name == "total" else _without_frame(own))
    return header, arrays


def _prior_moments(header: Mapping[str, Any], arrays: Mapping[str, Any]) -> DataMoments:
    """Return the moments that complete a prior.

    Raises
    ------
    KeyError, ValueError
        If something is missing, or no rows can have such moments.
    """
    own = without_prefix("prior.", arrays)
    for name in ("mean", "covariance"):
        require_values(name, own[name], own[name].shape)
    covariance = own["covariance"]
    variances = np.diagonal(covariance) if covariance.ndim == 2 else covariance
    if np.any(variances < 0.0):
        raise ValueError("the data of its prior have a negative variance")
    return DataMoments(positive("prior_rows", header["prior_rows"]), own["mean"], covariance)


def _without_frame(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays of statistics but for those of their frame."""
    return {name: array for name, array in arrays.items() if not name.startswith(_FRAME)}


def _unpack_model(
    header: Mapping[str, Any],
    arrays: Mapping[str, Any],
    plan: Plan,
    model: Any,
    reg_covar: Any,
) -> Stepwise:
    frame_arrays = prefixed(_FRAME, without_prefix(f"total.{_FRAME}", arrays))
    # Older files hold the frame once for each statistic.
    found = {
        name: unpack_statistics(header[name], frame_arrays | without_prefix(f"{name}.", arrays))
        for name in _STATISTICS
        if name in header
    }
    frame = found["total"].frame
    for name, statistics in found.items():
        is_own = frame.covariance_type == _asked_structure(model)
        if not (is_own and frame.is_same_as(statistics.frame)):
            raise ValueError(f"its {name} statistics are in another frame")
        # Old rows are weighed by what is known of them.
        if name != "recent":
            positive("weight", statistics.weight)
    parameters = _parameters(model, arrays)
    ridge = np.full(frame.n_features, reg_covar, dtype=np.float64)
    require_ridge(ridge, model.n_features_in_)
    prior = None
    if "prior_rows" in header:
        prior = completed_prior(model.prior, _prior_moments(header, arrays))
    elif model.prior is not None:
        raise ValueError("it has a prior, but not the moments of the data that complete it")
    return Stepwise(
        plan.schedule,
        Objective(ridge, prior=prior),
        parameters,
        found["total"],
        # They share one frame; with one object, comparisons are fast.
        replace(found["recent"], frame=frame),
        replace(found["average"], frame=frame) if "average" in found else None,
        amount("n_rows", header["n_rows"]),
        whole("n_steps", header["n_steps"]),
    )
