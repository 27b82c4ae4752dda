"""Data at URLs, from real servers, some of which fail on purpose."""

import gc
import json
import logging
import pickle
import re
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import fsspec
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
import xarray
import zarr
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from streamgmm import GaussianMixture
from streamgmm import open as open_data
from streamgmm.errors import DataError
from streamgmm.protocols import Source
from streamgmm.sources.remote import filesystem as remote
from streamgmm.sources.remote import retrying
from streamgmm.sources.remote.retrying import causes_of, may_pass
from streamgmm.testing.sources import SourceCase, SourceConformance, table
from streamgmm.urls import split, suffix, without_credentials
from tests.object_store import object_store

N, D = 70_000, 4
KEYS = {"key": "test", "secret": "test"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore")


class Server(ThreadingHTTPServer):
    """Serves files of a folder, or passes requests on to another server; fails as it is told.

    Attributes
    ----------
    faults : list of str
        What is done to the next requests, one after the other: "", "reset", "truncate", "stall"
        or a status.
    always : str
        What is done when none is left.
    period : int
        The fault of ``always`` meets only every so many requests, and none that it met when it was
        last made: with many under way, chance would pick out one again and again.
    sent : list of int
        Bytes of the body of each answer.
    """

    daemon_threads = True

    def __init__(self, folder: Path, upstream: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.upstream = folder, upstream
        self.faults: list[str] = []
        self.always, self.period = "", 1
        self.has_ranges = True
        self.sent: list[int] = []
        self.paths: list[str] = []
        self.authorizations: list[str | None] = []
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._met: set[tuple[str, str]] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fault(self, path: str, asked: str) -> str:
        """What is done to a request for a range of what is at a path."""
        with self._lock:
            self.paths.append(path)
            if self.faults:
                return self.faults.pop(0)
            is_due = len(self.paths) % self.period == 0
            if is_due and self.period > 1 and (path, asked) in self._met:
                is_due = False
            (self._met.add if is_due else self._met.discard)((path, asked))
            return self.always if is_due else ""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of a test's business."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.authorizations.append(self.headers.get("Authorization"))
        fault = self.server.fault(self.path, self.headers.get("Range", ""))
        if fault == "reset":
            # Closed without waiting, and without an answer.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
        elif fault == "stall":
            self.server.stopped.wait(60)
            self.close_connection = True
        elif fault not in ("", "truncate"):
            self._answer(int(fault), {}, b"")
        else:
            answer = self._forwarded() if self.server.upstream else self._file()
            self._answer(*answer, is_cut=fault == "truncate")

    def _file(self) -> tuple[int, dict[str, str], bytes]:
        path = self.server.folder / self.path.partition("?")[0].lstrip("/")
        if not path.is_file():
            return 404, {}, b""
        content = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked is None or not self.server.has_ranges:
            return 200, {}, content
        size = len(content)
        first, last = asked.groups()
        start = int(first) if first else size - int(last)
        stop = min(int(last) + 1, size) if first and last else size
        return 206, {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}, content[start:stop]

    def _forwarded(self) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection(urlsplit(self.server.upstream).netloc)
        connection.request(self.command, self.path, headers=dict(self.headers))
        answer = connection.getresponse()
        headers = {
            name: value
            for name, value in answer.getheaders()
            if name.lower() not in ("transfer-encoding", "connection", "date", "server")
        }
        return answer.status, headers, answer.read()

    def _answer(
        self, status: int, headers: dict[str, str], content: bytes, is_cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if is_cut and content:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.server.sent.append(len(content))
        self.wfile.write(content)


def serving(folder: Path, upstream: str = "") -> Iterator[Server]:
    server = Server(folder, upstream)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.stopped.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    yield from serving(tmp_path)


@pytest.fixture(autouse=True)
def collected_here() -> Iterator[None]:
    """Collect garbage in this thread alone.

    To collect what h5py made needs its lock, which is held while HDF5 waits for a server; and these
    servers are threads of the same process.
    """
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "BACK_OFF_SECONDS", 0.001)
    monkeypatch.setattr(retrying, "ATTEMPTS", 4)


def npy(path: Path, rows: NDArray[Any]) -> str:
    np.save(path / "x.npy", rows)
    return "x.npy"


def fortran_npy(path: Path, rows: NDArray[Any]) -> str:
    np.save(path / "x.npy", np.asfortranarray(rows))
    return "x.npy"


def zarr_array(path: Path, rows: NDArray[Any]) -> str:
    zarr.create_array(path / "x.zarr", data=rows, chunks=(10_000, 2))
    return "x.zarr"


def sharded_zarr_array(path: Path, rows: NDArray[Any]) -> str:
    zarr.create_array(path / "x.zarr", data=rows, chunks=(10_000, 4), shards=(20_000, 4))
    return "x.zarr"


def parquet(path: Path, rows: NDArray[Any]) -> str:
    columns = {f"c{d}": column for d, column in enumerate(rows.T)}
    pq.write_table(pa.table(columns), path / "x.parquet", row_group_size=20_000)
    return "x.parquet"


def hdf5(path: Path, rows: NDArray[Any]) -> str:
    with h5py.File(path / "x.h5", "w") as file:
        file["group/data"] = rows
        file["other"] = np.zeros((2, 2))
    return "x.h5::/group/data"


def chunked_hdf5(path: Path, rows: NDArray[Any]) -> str:
    with h5py.File(path / "x.h5", "w") as file:
        file.create_dataset("data", data=rows, chunks=(5000, 2), compression="gzip")
    return "x.h5"


KINDS: dict[str, Callable[[Path, NDArray[Any]], str]] = {
    "npy": npy,
    "fortran npy": fortran_npy,
    "zarr": zarr_array,
    "sharded zarr": sharded_zarr_array,
    "parquet": parquet,
    "hdf5": hdf5,
    "chunked hdf5": chunked_hdf5,
}
NAMES = {"variables": ["a", "b"]}


def variables(path: Path, rows: NDArray[Any], suffix: str) -> str:
    """The first two columns as variables of a dataset."""
    data = xarray.Dataset({"a": ("n", rows[:, 0]), "b": ("n", rows[:, 1])}).chunk(n=10_000)
    if suffix == ".zarr":
        # Of a server that lists no folders, only such metadata say which arrays there are.
        data.to_zarr(path / "v.zarr", zarr_format=2, consolidated=True)
    else:
        data.to_netcdf(path / "v.nc", engine="h5netcdf")
    return f"v{suffix}"


def read_all(source: Source) -> NDArray[Any]:
    return np.concatenate([source.read(i).rows for i in range(len(source.boundaries) - 1)])


@pytest.mark.parametrize("kind", KINDS)
class TestByHttp(SourceConformance):
    @pytest.fixture
    def case(
        self, request: pytest.FixtureRequest, tmp_path: Path, server: Server, kind: str
    ) -> SourceCase:
        rows = table(N, D)
        name = KINDS[kind](tmp_path, rows)
        return SourceCase(open_data(f"{server.address}/{name}"), rows)

    def test_it_is_nowhere_on_disk(self, case: SourceCase) -> None:
        assert case.source.location is None


class TestNpyOfAnyType(SourceConformance):
    @pytest.fixture(params=["f4", ">f8", ">i4", "f2", "?", "u1"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path, server: Server) -> SourceCase:
        rows = table(2000, 3, request.param)
        np.save(tmp_path / "x.npy", rows)
        return SourceCase(open_data(f"{server.address}/x.npy"), rows)


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
class TestVariablesByHttp(SourceConformance):
    @pytest.fixture
    def case(self, tmp_path: Path, server: Server, suffix: str) -> SourceCase:  # type: ignore[override]
        rows = table(N, D)
        name = variables(tmp_path, rows, suffix)
        return SourceCase(open_data(f"{server.address}/{name}", **NAMES), rows[:, :2])


def test_one_zarr_array_with_names(tmp_path: Path, server: Server) -> None:
    cube = table(60, 35).reshape(3, 20, 35)
    zarr.create_array(tmp_path / "a.zarr", data=cube, dimension_names=("band", "y", "x"))
    source = open_data(f"{server.address}/a.zarr", feature_dim="band")
    np.testing.assert_array_equal(read_all(source), cube.reshape(3, -1).T)


def test_weights(tmp_path: Path, server: Server) -> None:
    rows, weights = table(N, D), np.random.default_rng(0).random(N)
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "w.npy", weights)
    zarr.create_array(tmp_path / "w.zarr", data=weights, chunks=(10_000,))
    for data in (tmp_path / "x.npy", f"{server.address}/x.npy", rows):
        for name in ("w.npy", "w.zarr"):
            source = open_data(
                data, sample_weight=f"{server.address}/{name}?sig=secret", storage_options={}
            )
            for i, (start, stop) in enumerate(
                zip(source.boundaries[:-1], source.boundaries[1:], strict=True)
            ):
                np.testing.assert_array_equal(source.read(i).weights, weights[start:stop])
    server.always = "503"
    with pytest.raises(DataError, match=r"rows 0 to \d+ cannot be read: 4 attempts .*/w\.zarr"):
        source.read(0)


def test_a_model_is_fitted_to_signed_data_and_tells_nobody(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    rows = np.random.default_rng(0).normal(size=(N, D)) + np.arange(N)[:, None] % 2 * 9.0
    np.save(tmp_path / "x.npy", rows)
    server.always, server.period = "503", 5
    url = f"http://me:pass@127.0.0.1:{server.server_port}/x.npy?sig=hidden"
    found = GaussianMixture(2, random_state=0, max_iter=5, tol=1.0).fit(url)
    assert server.paths
    assert all(path == "/x.npy?sig=hidden" for path in server.paths)
    assert all(server.authorizations)
    found.save(tmp_path / "m.gmm")
    told = caplog.text + repr(found.history_) + str((tmp_path / "m.gmm").read_bytes())
    assert "hidden" not in told
    assert "me:pass" not in told
    assert "WARNING  streamgmm:retrying.py" in caplog.text
    assert f"http://127.0.0.1:{server.server_port}/x.npy: attempt 1 of 4 failed" in caplog.text


class TestByteRanges:
    @pytest.mark.parametrize("kind", ["npy", "hdf5"])
    def test_only_rows_of_a_chunk_are_fetched(
        self, kind: str, tmp_path: Path, server: Server
    ) -> None:
        rows = table(10 * 65536, D)
        name = KINDS[kind](tmp_path, rows)
        source = open_data(f"{server.address}/{name}")
        opening = sum(server.sent)
        assert opening < (2 << 20)
        server.sent.clear()
        chunk = source.read(7)
        exactly = chunk.rows.nbytes
        more = 0 if kind == "npy" else 1 << 20
        assert exactly <= sum(server.sent) <= exactly + more
        assert kind != "npy" or server.sent == [exactly]

    def test_servers_that_send_whole_files_only(self, tmp_path: Path, server: Server) -> None:
        server.has_ranges = False
        np.save(tmp_path / "x.npy", table(N, D))
        source = open_data(f"{server.address}/x.npy")
        with pytest.raises(DataError, match=r"x\.npy cannot be read .*support range requests"):
            source.read(0)
        source = open_data(f"simplecache::{server.address}/x.npy")
        np.testing.assert_array_equal(read_all(source), table(N, D))


class TestFaults:
    @pytest.mark.parametrize("fault", ["reset", "503", "429", "truncate"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_third_request_fails(
        self,
        kind: str,
        fault: str,
        tmp_path: Path,
        server: Server,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        rows = table(N, D)
        name = KINDS[kind](tmp_path, rows)
        server.always, server.period = fault, 3
        file, inner = split(name)
        source = open_data(f"{server.address}/{file}?sig=hidden", path=inner)
        assert np.array_equal(read_all(source), rows)
        warnings = [record for record in caplog.records if record.name == "streamgmm"]
        # What is reset once, aiohttp asks for again by itself.
        assert warnings or fault == "reset"
        assert all(record.levelno == logging.WARNING for record in warnings)
        assert "hidden" not in caplog.text

    @pytest.mark.parametrize("suffix", [".zarr", ".nc"])
    def test_variables(self, suffix: str, tmp_path: Path, server: Server) -> None:
        rows = table(N, D)
        name = variables(tmp_path, rows, suffix)
        server.always, server.period = "reset", 3
        source = open_data(f"{server.address}/{name}", **NAMES)
        np.testing.assert_array_equal(read_all(source), rows[:, :2])

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_server_that_is_down_for_good(
        self, kind: str, tmp_path: Path, server: Server
    ) -> None:
        name = KINDS[kind](tmp_path, table(N, D))
        url = f"{server.address}/{name}"
        source = open_data(url)
        server.always = "503"
        n_before = len(server.paths)
        i = len(source.boundaries) - 2
        start, stop = source.boundaries[i], source.boundaries[i + 1]
        with pytest.raises(DataError) as caught:
            source.read(i)
        message = str(caught.value)
        assert message.startswith(split(url)[0])
        assert f"rows {start} to {stop} cannot be read" in message
        assert f"4 attempts to read {server.address}/x." in message
        assert "503" in message
        if "zarr" not in kind:
            assert len(server.paths) - n_before == 4
        with pytest.raises(DataError, match=r"cannot be opened.*4 attempts to read .* 503"):
            open_data(url)

    def test_a_server_that_comes_back_is_read_again(self, tmp_path: Path, server: Server) -> None:
        rows = table(N, D)
        source = open_data(f"{server.address}/{hdf5(tmp_path, rows)}")
        server.faults = ["503"] * 4
        with pytest.raises(DataError, match="4 attempts"):
            source.read(0)
        np.testing.assert_array_equal(read_all(source), rows)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_server_that_says_nothing(
        self, kind: str, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote, "STALL_SECONDS", 0.3)
        monkeypatch.setattr(retrying, "ATTEMPTS", 2)
        rows = table(N, D)
        source = open_data(f"{server.address}/{KINDS[kind](tmp_path, rows)}")
        server.always = "stall"
        with pytest.raises(DataError, match=r"rows .*\b2 attempts to read .*(Timeout|timeout)"):
            source.read(0)
        server.always, server.faults = "", ["stall"]
        np.testing.assert_array_equal(read_all(source), rows)

    @pytest.mark.parametrize(
        ("status", "message"),
        [
            ("404", "there is no file .*/x"),
            ("403", r"is not open to you \(.*403.*storage_options"),
            ("401", r"is not open to you \(.*401.*storage_options"),
            ("400", r"x.* cannot be read \(.*400"),
        ],
    )
    @pytest.mark.parametrize("kind", ["npy", "parquet", "hdf5"])
    def test_what_waiting_does_not_mend(
        self, kind: str, status: str, message: str, tmp_path: Path, server: Server
    ) -> None:
        url = f"{server.address}/{KINDS[kind](tmp_path, table(N, D))}"
        source = open_data(url)
        n_before = len(server.paths)
        server.always = status
        with pytest.raises(DataError, match=message):
            source.read(0)
        assert len(server.paths) == n_before + 1
        with pytest.raises(DataError, match=message):
            open_data(url)
        # A header is asked for in two ways.
        assert len(server.paths) <= n_before + 3

    @pytest.mark.parametrize("status", ["401", "403"])
    def test_a_store_that_is_not_open(self, status: str, tmp_path: Path, server: Server) -> None:
        url = f"{server.address}/{zarr_array(tmp_path, table(N, D))}?sig=hidden"
        source = open_data(url)
        server.always = status
        for read in (lambda: source.read(0), lambda: open_data(url)):
            with pytest.raises(DataError, match=r"x\.zarr/\S+ is not open to you") as caught:
                read()
            assert "hidden" not in str(caught.value)

    def test_bytes_that_cannot_be_decoded_are_fetched_once(
        self, tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        url = f"{server.address}/{zarr_array(tmp_path, table(N, D))}"
        (tmp_path / "x.zarr" / "c" / "0" / "0").write_bytes(b"no zstd at all")
        source = open_data(url)
        server.paths.clear()
        with pytest.raises(DataError, match=r"rows 0 to .* cannot be read or decoded"):
            source.read(0)
        assert server.paths.count("/x.zarr/c/0/0") == 1
        assert not caplog.records
        with pytest.raises(DataError, match=r"x\.parquet cannot be opened as a Parquet file"):
            (tmp_path / "x.parquet").write_bytes(b"no parquet" * 10)
            open_data(f"{server.address}/x.parquet")

    def test_a_host_that_is_not_there(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/x.npy"
        with pytest.raises(DataError, match=f"4 attempts to read {url} failed"):
            open_data(url)

    def test_local_files_are_not_tried_again(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        source = open_data(f"file://{tmp_path}/{npy(tmp_path, table(N, D))}")
        assert source.location == tmp_path / "x.npy"
        (tmp_path / "x.npy").unlink()
        with pytest.raises(DataError, match=r"x\.npy: rows 0 to .*FileNotFoundError"):
            source.read(0)
        assert not caplog.records


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    """The address of an S3-compatible server, with one bucket."""
    with object_store("remote", KEYS) as address:
        yield address


@pytest.fixture
def store(tmp_path: Path, upstream: str) -> Iterator[Server]:
    """A server before the object store, which fails as it is told."""
    yield from serving(tmp_path, upstream)


class TestS3:
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_fifth_request_fails(
        self,
        kind: str,
        tmp_path: Path,
        upstream: str,
        store: Server,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # A read of a whole object is two requests, of which many are under way.
        monkeypatch.setattr(retrying, "ATTEMPTS", 10)
        rows = table(N, D)
        name = KINDS[kind](tmp_path, rows)
        file = split(name)[0]
        s3 = s3fs.S3FileSystem(**KEYS, endpoint_url=upstream)
        s3.put(f"{tmp_path}/{file}", f"remote/{kind.replace(' ', '_')}/{file}", recursive=True)
        options = {**KEYS, "endpoint_url": store.address}
        url = f"s3://remote/{kind.replace(' ', '_')}/{name}"
        for fault in ("503", "reset", "truncate"):
            store.always, store.period = fault, 5
            source = open_data(url, storage_options=options)
            assert source.name.startswith(split(url)[0])
            np.testing.assert_array_equal(read_all(pickle.loads(pickle.dumps(source))), rows)
        assert len(store.paths) > 3
        store.always, store.period = "500", 1
        with pytest.raises(DataError, match=r"rows \d+ to \d+ cannot be read.*10 attempts .*s3://"):
            source.read(0)
        store.paths.clear()
        store.always = "403"
        with pytest.raises(DataError, match=r"s3://remote/.* is not open to you .*storage_options"):
            open_data(url, storage_options=options)
        # Zarr looks for arrays of both formats at once.
        assert len(store.paths) == 1 or "zarr" in kind

    def test_a_store_that_says_nothing(
        self, tmp_path: Path, upstream: str, store: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote, "STALL_SECONDS", 0.3)
        s3fs.S3FileSystem(**KEYS, endpoint_url=upstream).put(
            f"{tmp_path}/{npy(tmp_path, table(N, D))}", "remote/x.npy"
        )
        options = {**KEYS, "endpoint_url": store.address}
        source = open_data("s3://remote/x.npy", storage_options=options)
        store.always = "stall"
        n_before = len(store.paths)
        with pytest.raises(
            DataError, match=r"rows 0 to .* 4 attempts .*s3://remote/x\.npy .*imeout"
        ):
            source.read(0)
        assert len(store.paths) == n_before + 4

    def test_what_is_not_there(self, upstream: str) -> None:
        options = {**KEYS, "endpoint_url": upstream}
        for name in ("absent.npy", "absent.h5", "absent.parquet"):
            with pytest.raises(DataError, match=rf"s3://remote/{name}"):
                open_data(f"s3://remote/{name}", storage_options=options)


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("https://host/rows.parquet?X-Amz-Signature=a.b/c.npy#x.h5", ".parquet"),
            ("https://host/x.NPY#part", ".npy"),
            ("s3://remote/part-?.parquet", ".parquet"),
            ("simplecache::s3://remote/x.zarr", ".zarr"),
            ("zip://inner.parquet::https://host/outer.zip?sig=x.npy", ".parquet"),
            ("simplecache::zip://inner.h5::s3://remote/outer.zip", ".h5"),
            ("data/x.npy", ".npy"),
            ("https://host/?x.npy", ""),
        ],
    )
    def test_the_suffix_is_that_of_the_path(self, url: str, expected: str) -> None:
        assert suffix(url) == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("https://me:pa@ss@host/x.npy?sig=1#2", "https://host/x.npy"),
            ("simplecache::https://host/x.npy?sig=a::b", "simplecache::https://host/x.npy"),
            ("s3://remote/a@b/part-?.parquet", "s3://remote/a@b/part-?.parquet"),
            ("403, url='http://host/x?sig=1'", "403, url='http://host/x'"),
        ],
    )
    def test_credentials_are_left_out(self, text: str, expected: str) -> None:
        assert without_credentials(text) == expected

    def test_data_of_no_kind_are_refused_without_credentials(self) -> None:
        with pytest.raises(DataError, match=r"^https://host/x is neither"):
            open_data("https://me:secret@host/x?sig=y.npy")

    @pytest.mark.parametrize("kind", ["npy", "parquet", "chunked hdf5"])
    def test_chained(self, kind: str, tmp_path: Path, server: Server) -> None:
        rows = table(N, D)
        name = KINDS[kind](tmp_path, rows)
        with zipfile.ZipFile(tmp_path / "outer.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(tmp_path / name, name)
        for chain in (
            f"simplecache::{server.address}/{name}?sig=hidden",
            f"zip://{name}::{server.address}/outer.zip?sig=hidden",
        ):
            # What a cache asks the server, and of what it makes a missing file, is its own.
            server.faults = ["", "503"] if chain.startswith("zip") else []
            source = open_data(chain)
            assert not server.faults
            assert "hidden" not in source.name
            np.testing.assert_array_equal(read_all(source), rows)


# File systems that read other ones

#: Tables of the same rows, and what is appended to the URL of each.
TABLES = {
    "v2.zarr": "",
    "v3.zarr": "",
    "group.zarr": "::/a/x",
    "x.npy": "",
    "x.h5": "::/a/x",
    "x.parquet": "",
}
#: What comes before and after the name of a table in a folder, or in an archive of the folder.
CHAINS = {
    "zip": ("zip://", "::file://{folder}/a.zip"),
    "zip at a path": ("zip://", "::{folder}/a.zip"),
    "tar": ("tar://", "::file://{folder}/a.tar"),
    "memory": ("memory://{folder}/", ""),
    "zip in memory": ("zip://", "::memory://{folder}/a.zip"),
    "folder": ("dir://", "::file://{folder}"),
    "simplecache": ("simplecache::memory://{folder}/", ""),
    "filecache": ("filecache::memory://{folder}/", ""),
    "zip in a cache": ("zip://", "::simplecache::memory://{folder}/a.zip"),
    "keyed": ("keyed://{folder}/", ""),
}


class KeyedFileSystem(LocalFileSystem):  # type: ignore[misc]
    """Finds files by keys, as stores of objects do, and says so when there is none."""

    protocol = "keyed"

    def _open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._open(path, *args, **kwargs)
        except FileNotFoundError as error:
            raise FileNotFoundError(path) from LookupError(str(error))

    def info(self, path: str, **kwargs: Any) -> Any:
        try:
            return super().info(path, **kwargs)
        except FileNotFoundError as error:
            raise FileNotFoundError(path) from LookupError(str(error))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, NDArray[Any]]]:
    """A folder with the tables, which is in memory and in archives too."""
    folder, rows = tmp_path_factory.mktemp("tables"), table(20_000, D)
    for name, zarr_format in (("v2.zarr", 2), ("v3.zarr", 3)):
        store_zarr(folder / name, rows, zarr_format)
    store_zarr(folder / "group.zarr" / "a" / "x", rows, 3)
    zarr.open_group(folder / "group.zarr", mode="a")
    zarr.open_group(folder / "group.zarr" / "a", mode="a")
    np.save(folder / "x.npy", rows)
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("a/x", data=rows, chunks=(1000, D))
    columns = pa.table({f"x{d}": column for d, column in enumerate(rows.T)})
    pq.write_table(columns, folder / "x.parquet", row_group_size=1000)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.relative_to(folder))
    with tarfile.open(folder / "a.tar", "w") as tar:
        for path in files:
            tar.add(path, path.relative_to(folder))
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), str(folder), recursive=True)
    fsspec.register_implementation("keyed", KeyedFileSystem, clobber=True)
    yield folder, rows
    memory.rm(str(folder), recursive=True)


def store_zarr(folder: Path, rows: NDArray[Any], zarr_format: Any) -> None:
    array = zarr.create_array(
        folder, shape=rows.shape, chunks=(1000, D), dtype=rows.dtype, zarr_format=zarr_format
    )
    array[:] = rows


@pytest.mark.parametrize("chain", CHAINS)
class TestChains:
    @pytest.mark.parametrize("name", TABLES)
    def test_threads_read_the_rows(
        self, chain: str, name: str, tables: tuple[Path, NDArray[Any]]
    ) -> None:
        folder, rows = tables
        before, after = (part.format(folder=folder) for part in CHAINS[chain])
        source = open_data(before + name + after + TABLES[name])
        # Each chunk by several threads at once, which must not disturb each other.
        chunks = [*range(len(source.boundaries) - 1)] * 4
        with ThreadPoolExecutor(8) as threads:
            for i, chunk in zip(chunks, threads.map(source.read, chunks), strict=True):
                start, stop = source.boundaries[i], source.boundaries[i + 1]
                np.testing.assert_array_equal(chunk.rows, rows[start:stop])

    @pytest.mark.parametrize("name", ["no.zarr", "no.h5"])
    def test_an_absent_file_is_named(
        self, chain: str, name: str, tables: tuple[Path, NDArray[Any]]
    ) -> None:
        before, after = (part.format(folder=tables[0]) for part in CHAINS[chain])
        with pytest.raises(DataError, match=rf"{name}.*there is no file"):
            open_data(before + name + after)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("url", ["reference://", "reference://::file://{references}"])
def test_references_are_a_zarr_store(url: str, zarr_format: int, tmp_path: Path) -> None:
    rows, store = table(3000, D), tmp_path / "x"
    store_zarr(store, rows, zarr_format)
    references: dict[str, Any] = {}
    for path in store.rglob("*"):
        key = path.relative_to(store).as_posix()
        if path.name.startswith((".z", "zarr.json")):
            references[key] = path.read_text()
        elif path.is_file():
            references[key] = [f"file://{path}", 0, path.stat().st_size]
    file = tmp_path / "references.json"
    file.write_text(json.dumps({"version": 1, "refs": references}))
    options = {"fo": str(file)} if url == "reference://" else None
    source = open_data(url.format(references=file), storage_options=options)
    np.testing.assert_array_equal(read_all(source), rows)


@pytest.mark.parametrize(
    ("cause", "is_told"),
    [
        (KeyError("x"), True),
        (LookupError("x"), True),
        (FileNotFoundError("x"), True),
        (None, True),
        (TimeoutError("slow"), False),
        (ConnectionResetError("reset"), False),
        (aiohttp.ClientPayloadError("cut short"), False),
        (EOFError("cut short"), False),
    ],
)
def test_a_missing_file_is_told_from_a_failed_request(
    cause: BaseException | None, is_told: bool
) -> None:
    error = FileNotFoundError("x")
    error.__cause__ = cause
    assert (causes_of(error)[0] is error) == is_told
    assert may_pass(error) != is_told


def test_an_open_file_does_not_crash_an_interpreter_that_ends(
    tmp_path: Path, server: Server
) -> None:
    """HDF5 closes files after Python's end, unless they are closed before."""
    name = hdf5(tmp_path, table(N, D))
    program = f"""
import streamgmm
source = streamgmm.open({f"{server.address}/{name}"!r})
print(source.read(0).rows.shape)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_threads_share_an_hdf5_file_that_fails_now_and_then(tmp_path: Path, server: Server) -> None:
    rows = table(N, D)
    source = open_data(f"{server.address}/{chunked_hdf5(tmp_path, rows)}")
    server.always, server.period = "reset", 3
    with ThreadPoolExecutor(4) as threads:
        chunks = list(threads.map(source.read, list(range(len(source.boundaries) - 1)) * 4))
    for chunk in chunks:
        np.testing.assert_array_equal(chunk.rows, rows[chunk.index.start : chunk.index.stop])
