"""Credentials in URLs: none may show, and each URL stays recognisable."""

from pathlib import Path

import numpy as np
import pytest

import streamgmm
from streamgmm import GaussianMixture
from streamgmm.ledger import Ledger, Position
from streamgmm.updates.table_key import TableKey
from streamgmm.urls import without_credentials

# URLs, and what may be shown of them. Every secret has SECRET in it.
URLS = {
    "https://user:SECRET@host/x.npy": "https://host/x.npy",
    "https://SECRET@host/x.npy": "https://host/x.npy",
    "https://user:SECRET@host:8443/x.npy": "https://host:8443/x.npy",
    "https://user:SEC@SECRET@host/x.npy": "https://host/x.npy",
    "https://user:SEC/SECRET@host/x.npy": "https://host/x.npy",
    "https://user:SEC SECRET@host/x.npy": "https://host/x.npy",
    "https://user:SEC'SECRET@host/x.npy": "https://host/x.npy",
    'https://user:SEC"SECRET@host/x.npy': "https://host/x.npy",
    "https://user%3ASECRET%40host/x.npy": "https://host/x.npy",
    "https://user:SECRET%40x@host/x.npy": "https://host/x.npy",
    "https://user:SECRET@[::1]:80/x.npy": "https://[::1]:80/x.npy",
    "HTTPS://user:SECRET@HOST/X.NPY": "HTTPS://HOST/X.NPY",
    "https://host/x.npy?X-Amz-Signature=SECRET": "https://host/x.npy",
    "https://host/x.npy?a=1&X-Goog-Signature=SECRET&b=2": "https://host/x.npy",
    "https://host/x.npy?SECRET": "https://host/x.npy",
    "https://host/x.npy?sig=a SECRET": "https://host/x.npy",
    "https://host/x.npy?sig=a'SECRET": "https://host/x.npy",
    'https://host/x.npy?sig=a"SECRET': "https://host/x.npy",
    "https://host/x.npy?sig=a::SECRET": "https://host/x.npy",
    "https://host/x.npy?sig=a/b?SECRET": "https://host/x.npy",
    "https://host/a file's.npy?sig=SECRET": "https://host/a file's.npy",
    "https://host/x.npy#access_token=SECRET": "https://host/x.npy",
    "https://host/x.npy%3Fsig%3DSECRET": "https://host/x.npy",
    "https://host?sig=SECRET@x": "https://host",
    "HTTPS://host/x.npy?SIG=SECRET": "HTTPS://host/x.npy",
    "s3://key:SECRET@bucket/x.npy": "s3://bucket/x.npy",
    "s3://key:SEC/SECRET@bucket/x.npy": "s3://bucket/x.npy",
    "s3://bucket/x.npy?X-Amz-Credential=SECRET": "s3://bucket/x.npy",
    "s3://bucket/part-?.parquet?X-Amz-Signature=SECRET": "s3://bucket/part-?.parquet",
    "az://container/x.npy?sv=2022&sig=SECRET": "az://container/x.npy",
    "abfs://container@account.dfs.core.windows.net/x.npy?sig=SECRET": (
        "abfs://account.dfs.core.windows.net/x.npy"
    ),
    "gs://bucket/x.npy?access_token=SECRET": "gs://bucket/x.npy",
    "gs://bucket/x.npy#access_token=SECRET": "gs://bucket/x.npy",
    "gs://bucket/x.npy%3faccess_token=SECRET": "gs://bucket/x.npy",
    "ftp://user:SECRET@host/x.npy": "ftp://host/x.npy",
    "sftp://user:SECRET@host:22/x.npy": "sftp://host:22/x.npy",
    "hdfs://user:SECRET@host/x.npy": "hdfs://host/x.npy",
    "webdav://host/x.npy?token=SECRET": "webdav://host/x.npy",
    "zip://a.npy::s3://key:SECRET@bucket/x.zip": "zip://a.npy::s3://bucket/x.zip",
    "zip://a.npy::https://host/x.zip?sig=SECRET": "zip://a.npy::https://host/x.zip",
    "simplecache::https://host/x.npy?sig=SECRET": "simplecache::https://host/x.npy",
    "simplecache::zip://a.npy::gs://b/x.zip?access_token=SECRET": (
        "simplecache::zip://a.npy::gs://b/x.zip"
    ),
    "https://host/x.h5?sig=SECRET::/group/x": "https://host/x.h5::/group/x",
    "https://proxy/https://user:SECRET@host/x.npy": "https://proxy/https://host/x.npy",
    "dask+https://user:SECRET@host/x.npy": "dask+https://host/x.npy",
    "https://user:SECRET@[host/x.npy": "https://[host/x.npy",
}


@pytest.mark.parametrize("url", URLS)
def test_no_secret_shows_and_the_url_is_recognisable(url: str) -> None:
    assert "SECRET" in url
    assert without_credentials(url) == URLS[url]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("text", ["{}", "404: '{}'", 'url="{}", message=none', "first\nsee {}"])
def test_no_secret_shows_in_a_text(url: str, text: str) -> None:
    shown = without_credentials(text.format(url))
    assert "SECRET" not in shown
    assert URLS[url] in shown


@pytest.mark.parametrize(
    "text",
    [
        "data/x.npy",
        "data/a?b=c#d.npy",
        "s3://remote/a@b/part-?.parquet",
        "s3://remote/part-?/year=2020/x.parquet",
        "zip://x.h5::/folder/a.zip",
        "memory://folder/x.zarr",
        "is it there? no: # of tries = 3",
    ],
)
def test_what_holds_no_credentials_is_shown_as_it_is(text: str) -> None:
    assert without_credentials(text) == text


@pytest.mark.parametrize("url", URLS)
def test_no_secret_shows_in_a_model_or_its_ledger(url: str, tmp_path: Path) -> None:
    model = GaussianMixture(2, checkpoint=url)
    for shown in (repr(model), str(model), model._repr_html_()):
        assert "SECRET" not in shown
    # The setting itself stays.
    assert model.get_params()["checkpoint"] == url
    place = TableKey.of(url, {})
    ledger = place.noted(Ledger(), Position(1, ""))
    assert "SECRET" not in str(ledger.to_header())


def test_a_saved_model_holds_no_place_of_its_checkpoint(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(300, 2))
    model = GaussianMixture(2, random_state=0).fit(rows)
    model.set_params(checkpoint="s3://key:SECRET@bucket/x")
    model.save(tmp_path / "m.gmm")
    assert b"SECRET" not in (tmp_path / "m.gmm").read_bytes()
    assert "SECRET" not in repr(streamgmm.load(tmp_path / "m.gmm"))
