"""A model file says where the model comes from."""

import json
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamgmm
from streamgmm import GaussianMixture
from streamgmm.errors import ModelFileError
from streamgmm.persistence import Record, read_record, write_record
from streamgmm.testing.chunked import ChunkedSource

ROWS = np.random.default_rng(0).normal(size=(400, 2))


def strict(text: bytes) -> Any:
    """Parse JSON by its standard, which has no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def header_of(path: Path) -> Any:
    return strict(np.load(path)["header"].tobytes())


def test_a_fit_is_on_record(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    before = datetime.now(UTC).replace(microsecond=0)
    GaussianMixture(2, random_state=0).fit(tmp_path / "x.npy").save(tmp_path / "m.gmm")
    model = streamgmm.load(tmp_path / "m.gmm")
    found = model.provenance_
    assert found == header_of(tmp_path / "m.gmm")["provenance"]
    assert before <= datetime.fromisoformat(found["date"]) <= datetime.now(UTC)
    for name in ("streamgmm", "numpy", "scipy", "numba"):
        assert found["versions"][name] == version(name)
    assert found["data"] == [str(tmp_path / "x.npy")]
    assert re.fullmatch(r"[0-9a-f]{32}", found["fingerprint"])
    assert found["cpu"]
    again = GaussianMixture(2, random_state=1).fit(tmp_path / "x.npy").provenance_
    assert again["fingerprint"] == found["fingerprint"]
    other = GaussianMixture(2).fit(ROWS[:300]).provenance_
    assert other["fingerprint"] != found["fingerprint"]
    assert not hasattr(model.marginal([0]), "provenance_")


def test_credentials_are_not_on_record() -> None:
    source = ChunkedSource(ROWS, boundaries=[0, 400], read_bytes=0)
    source.name = "s3://user:SECRET@bucket/x.zarr?token=SECRET"
    assert "SECRET" not in str(GaussianMixture().fit(source).provenance_)


def test_headers_are_json_by_its_standard(tmp_path: Path) -> None:
    """Whatever is not a finite number in them."""
    model = GaussianMixture(2, max_iter=0, random_state=0).fit(ROWS)
    model.lower_bound_, model.lower_bounds_ = -np.inf, [np.nan, np.inf, -1.5]
    model.save(tmp_path / "m.gmm")
    header = header_of(tmp_path / "m.gmm")
    assert header["fitted"]["lower_bounds_"] == [None, "inf", -1.5]
    found = streamgmm.load(tmp_path / "m.gmm")
    assert found.lower_bound_ == -np.inf
    np.testing.assert_array_equal(found.lower_bounds_, model.lower_bounds_)
    assert [read["gain"] for read in found.history_] == pytest.approx(
        [read["gain"] for read in model.history_], nan_ok=True
    )


@pytest.mark.parametrize(
    "entry",
    [[], {"date": 3}, {"versions": {"numpy": 2}}, {"data": "x"}, {"host": "x"}, {"data": [1]}],
)
def test_provenance_in_files_is_checked(entry: Any, tmp_path: Path) -> None:
    GaussianMixture().fit(ROWS).save(tmp_path / "m.gmm")
    record = read_record(tmp_path / "m.gmm")
    write_record(tmp_path / "m.gmm", Record({**record.header, "provenance": entry}, record.arrays))
    with pytest.raises(ModelFileError, match=r"provenance|date|versions|data"):
        streamgmm.load(tmp_path / "m.gmm")
