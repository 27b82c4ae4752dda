"""Models that learn from a stream as records of a file: all of what they go on from."""

from collections.abc import Mapping
from dataclasses import astuple, replace
from typing import Any

import numpy as np

from streamgmm.algorithms.held_rows import HeldRows
from streamgmm.algorithms.online import Plan, Progress
from streamgmm.algorithms.prequential import ChangeTest, Score, ScoreRecord
from streamgmm.algorithms.stepwise import Schedule, Stepwise
from streamgmm.core.parameters import Parameters
from streamgmm.estimators.ledger import Ledger
from streamgmm.estimators.records import pack_settings, unpack_settings
from streamgmm.events import SkippedRows
from streamgmm.persistence import (
    Record,
    pack_statistics,
    prefixed,
    unpack_statistics,
    without_prefix,
)

_PARAMETERS = ("weights", "means", "covariances", "factors")
_STATISTICS = ("total", "recent", "average")
_HELD = ("held", "latest")
_COUNTS = ("next_search", "n_seen", "n_searches")
# Older files do not have these.
_BLOCK = ("n_pending", "step_weight")


def to_online_record(model: Any, progress: Progress | None) -> Record:
    """A model and how far it has learned, if it has begun, as what a file holds."""
    header, arrays = pack_settings(model)
    header["ledger"] = model._ledger.to_header()
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
        held: HeldRows | None = getattr(progress, name)
        if held is not None and held.n_rows:
            arrays |= prefixed(f"{name}.", {"rows": held.rows, "weights": held.weights})
    header["progress"]["is_holding"] = progress.held is not None
    if progress.reference is not None:
        own = {name: getattr(progress.reference, name) for name in _PARAMETERS}
        arrays |= prefixed("reference.", own)
    if progress.model is not None:
        header["model"], own = _pack_model(progress.model)
        arrays |= prefixed("model.", own)
    if hasattr(model, "merging_loss_"):
        header["fitted"]["merging_loss_"] = model.merging_loss_
    return Record(header, arrays)


def from_online_record(estimator: type, record: Record) -> Any:
    """The model that :func:`to_online_record` made a record of.

    Raises
    ------
    KeyError, TypeError, ValueError
        If something is missing or of the wrong kind.
    """
    header, arrays = record.header, record.arrays
    model = unpack_settings(estimator, record)
    # Files of release 0.1 have no ledger.
    if "ledger" in header:
        model._ledger = Ledger.from_header(header["ledger"])
    for name, value in header["fitted"].items():
        setattr(model, name, value)
    if "plan" not in header:
        return model
    planned = header["plan"]
    plan = Plan(
        planned["n_components"],
        Schedule(*planned["schedule"]),
        planned["init_size"],
        planned["seed"],
    )
    kept = header["progress"]
    width, last, *entries = kept["record"]
    held, latest = (_held(without_prefix(f"{name}.", arrays)) for name in _HELD)
    stepwise = None
    if "model" in header:
        own = without_prefix("model.", arrays)
        # Older files hold one number in the plan.
        ridge = own["reg_covar"] if "reg_covar" in own else planned["reg_covar"]
        stepwise = _unpack_model(header["model"], own, plan, model.covariance_type, ridge)
    reference = without_prefix("reference.", arrays)
    # Older files have no rows of a block that has not ended: their model has learned all rows.
    n_pending = kept.get("n_pending", 0)
    step_weight = kept.get("step_weight", 0.0 if stepwise is None else stepwise.recent.weight)
    model._progress = Progress(
        plan,
        stepwise,
        held if kept["is_holding"] else None,
        latest=latest,
        n_pending=n_pending,
        step_weight=step_weight,
        reference=_parameters(model.covariance_type, reference) if reference else None,
        record=ScoreRecord(
            tuple(Score(*entry) for entry in entries), None if last is None else Score(*last), width
        ),
        test=ChangeTest(*kept["test"]),
        changes=tuple(kept["changes"]),
        # Files of release 0.1 do not count skipped rows.
        skipped=SkippedRows(*kept.get("skipped", ())),
        **{name: kept[name] for name in _COUNTS},
    )
    if stepwise is not None and stepwise.parameters.means.shape != (
        model.n_components,
        model.n_features_in_,
    ):
        raise ValueError("the means do not have the shape that the settings say")
    return model


def _parameters(covariance_type: Any, arrays: Mapping[str, Any]) -> Parameters:
    return Parameters.create(covariance_type, *(arrays[name] for name in _PARAMETERS))


def _held(arrays: Mapping[str, Any]) -> HeldRows:
    if not arrays:
        return HeldRows()
    return HeldRows(((arrays["rows"], arrays["weights"]),), len(arrays["rows"]))


def _pack_model(model: Stepwise) -> tuple[dict[str, Any], dict[str, Any]]:
    header: dict[str, Any] = {"n_rows": model.n_rows, "n_steps": model.n_steps}
    arrays = {name: getattr(model.parameters, name) for name in _PARAMETERS}
    arrays["reg_covar"] = np.asarray(model.reg_covar)
    for name in _STATISTICS:
        statistics = getattr(model, name)
        if statistics is not None:
            header[name], own = pack_statistics(statistics)
            arrays |= prefixed(f"{name}.", own)
    return header, arrays


def _unpack_model(
    header: Mapping[str, Any],
    arrays: Mapping[str, Any],
    plan: Plan,
    covariance_type: Any,
    reg_covar: Any,
) -> Stepwise:
    found = {
        name: unpack_statistics(header[name], without_prefix(f"{name}.", arrays))
        for name in _STATISTICS
        if name in header
    }
    frame = found["total"].frame
    return Stepwise(
        plan.schedule,
        np.full(frame.n_features, reg_covar, dtype=np.float64),
        _parameters(covariance_type, arrays),
        found["total"],
        # They are in one frame, which is soon seen if it is one object.
        replace(found["recent"], frame=frame),
        replace(found["average"], frame=frame) if "average" in found else None,
        header["n_rows"],
        header["n_steps"],
    )
