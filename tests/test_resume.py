"""Interrupted predictions continue where they were, and give the bits of uninterrupted ones."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import xarray
import zarr

import streamgmm
from streamgmm import GaussianMixture
from streamgmm.cli import main
from streamgmm.errors import NotFiniteError, OutputError, ParameterError
from streamgmm.events import ChunkDone, Event
from streamgmm.sinks import file, part

# Of so many features 4096 rows are a chunk.
N, D, K = 40_000, 64, 2
N_CHUNKS = 10


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(size=(N, D)) + 0.1 * random.integers(0, 2, (N, 1))


@pytest.fixture(scope="module")
def fitted(rows: np.ndarray) -> GaussianMixture:
    return GaussianMixture(K, covariance_type="diag", random_state=0).fit(rows[:3000])


def described(kind: str, folder: Path) -> Any:
    """The rows in a file, for this process and for others."""
    if kind == "npy":
        return streamgmm.open(folder / "x.npy")
    if kind == "dask":
        uneven = (1000, *[3000] * 12, 1500, 1500)
        return dask.array.from_array(np.load(folder / "x.npy"), chunks=(uneven, D))
    cube = np.load(folder / "x.npy").reshape(40, 40, 25, D)
    data = xarray.DataArray(cube, dims=("time", "lat", "lon", "v")).chunk(time=40, lat=5, lon=25)
    return streamgmm.open(data, feature_dim="v")


def kill_at(owner: Any, name: str, count: int, before: Callable[..., object]) -> None:
    """Have this process killed as a method is called, the time after so many."""
    method, calls = getattr(owner, name), itertools.count()

    def counting(*arguments: Any) -> Any:
        if next(calls) == count:
            before(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*arguments)

    setattr(owner, name, counting)


def half_a_line(journal: Any, line: object) -> None:
    with (journal.folder / "journal.jsonl").open("a") as file:
        file.write('{"chunks": [0, 1, 2, 3, 4')


PLACES: dict[str, tuple[Any, str, Callable[..., object]]] = {
    "piece": (file.FileSink, "write", lambda *arguments: None),
    "chunk": (file.FileSink, "finish", lambda *arguments: None),
    "journal": (part.Part, "add", lambda *arguments: None),
    "line": (part.Part, "_append", half_a_line),
    "name": (part.Part, "publish", lambda *arguments: None),
}


def write(kind: str, out: Path, seconds: float) -> None:
    """Write responsibilities, one chunk after the other: places are where they are said to be."""
    file._SYNC_SECONDS = seconds
    model = streamgmm.load(out.parent / "model.gmm").set_params(n_jobs=1)
    with dask.config.set(scheduler="synchronous"):
        model.predict_proba(described(kind, out.parent), out=out)


def write_until_killed(kind: str, out: Path, place: str, count: int, seconds: float) -> None:
    owner, name, before = PLACES[place]
    kill_at(owner, name, count, before)
    write(kind, out, seconds)


def write_with_pauses(out: Path, pipe: Connection) -> None:
    """Write responsibilities, and wait before each chunk is finished."""
    finish = file.FileSink.finish

    def wait(sink: file.FileSink, i: int) -> None:
        pipe.send("at work")
        pipe.recv()
        finish(sink, i)

    file.FileSink.finish = wait  # type: ignore[method-assign]
    write("npy", out, 0.0)


# Forks of a process that has imported this module and has no threads: they start at once.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([__name__])


@pytest.fixture
def folder(rows: np.ndarray, fitted: GaussianMixture, tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", rows)
    fitted.save(tmp_path / "model.gmm")
    return tmp_path


def killed(kind: str, out: Path, place: str, count: int, seconds: float) -> None:
    """Write responsibilities in another process, up to some place."""
    process = processes.Process(target=write_until_killed, args=(kind, out, place, count, seconds))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def journalled(out: Path) -> set[int]:
    """Chunks that a journal says are done."""
    chunks: set[int] = set()
    for line in (part_of(out) / "journal.jsonl").read_bytes().splitlines(keepends=True)[1:]:
        if line.endswith(b"\n"):
            chunks.update(json.loads(line)["chunks"])
    return chunks


def part_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


def files(path: Path) -> dict[str, bytes]:
    """Everything in a file or folder."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def resumed(model: GaussianMixture, data: Any, out: Path) -> int:
    """Continue with an output; gives the number of rows that are computed."""
    events: list[Event] = []
    model = streamgmm.load(out.parent / "model.gmm").set_params(callbacks=[events.append])
    model.predict_proba(data, out=out, resume=True)
    assert not part_of(out).exists()
    return sum(event.n_rows for event in events if isinstance(event, ChunkDone))


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
@pytest.mark.parametrize(
    ("kind", "place", "count", "seconds", "most_left"),
    [
        ("npy", "piece", 5, 0.0, 5),
        ("npy", "chunk", 0, 0.0, 10),
        # Nothing has been forced to the disk, and so nothing is counted on.
        ("npy", "chunk", 8, 1e9, 10),
        ("npy", "journal", 3, 0.0, 7),
        ("npy", "line", 4, 0.0, 7),
        ("npy", "line", 0, 0.0, 10),
        ("npy", "name", 0, 0.0, 0),
        ("boxes", "journal", 3, 0.0, 5),
        ("boxes", "chunk", 2, 0.0, 6),
        ("dask", "chunk", 4, 0.0, 11),
    ],
)
def test_killed_writes_go_on(
    kind: str,
    place: str,
    count: int,
    seconds: float,
    most_left: int,
    suffix: str,
    folder: Path,
    fitted: GaussianMixture,
) -> None:
    out = folder / f"out{suffix}"
    out_before = folder / f"whole{suffix}"
    with dask.config.set(scheduler="synchronous"):
        data = described(kind, folder)
        fitted.predict_proba(data, out=out_before)
        killed(kind, out, place, count, seconds)
        assert not out.exists()
        assert part_of(out).is_dir()
        has_begun = (part_of(out) / "journal.jsonl").read_bytes().count(b"\n") > 0
        done = journalled(out) if has_begun else set()
        source = streamgmm.open(data)
        left = [i for i in range(len(source.boundaries) - 1) if i not in done]
        n_left = sum(source.boundaries[i + 1] - source.boundaries[i] for i in left)
        assert len(left) <= most_left
        assert resumed(fitted, data, out) == n_left
    assert files(out) == files(out_before)
    if seconds:
        assert not done


def test_what_was_there_survives_until_the_end(folder: Path, fitted: GaussianMixture) -> None:
    out = folder / "out.zarr"
    zarr.create_array(out, data=np.arange(5))
    before = files(out)
    killed("npy", out, "chunk", 3, 0.0)
    assert files(out) == before
    resumed(fitted, folder / "x.npy", out)
    assert zarr.open_array(out, mode="r").shape == (N, K)
    assert sorted(p.name for p in folder.iterdir()) == ["model.gmm", "out.zarr", "x.npy"]


def interrupted(
    model: GaussianMixture,
    data: Any,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException] = KeyboardInterrupt,
    method: str = "predict_proba",
) -> BaseException:
    """Stop a prediction after some chunks, from a callback."""
    monkeypatch.setattr(file, "_SYNC_SECONDS", 0.0)
    n_done = 0

    def stop(event: Event) -> None:
        nonlocal n_done
        n_done += isinstance(event, ChunkDone)
        if n_done == 3:
            raise error

    stopping = streamgmm.load(out.parent / "model.gmm").set_params(callbacks=[stop])
    with pytest.raises(error) as caught:
        getattr(stopping, method)(data, out=out)
    return caught.value


@pytest.mark.parametrize("error", [KeyboardInterrupt, LookupError, SystemExit])
@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_errors_say_how_to_go_on(
    error: type[BaseException],
    suffix: str,
    folder: Path,
    fitted: GaussianMixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = folder / f"out{suffix}"
    found = interrupted(fitted, folder / "x.npy", out, monkeypatch, error)
    assert any("out" in note and "resume=True" in note for note in found.__notes__)
    assert len(journalled(out)) >= 3
    assert resumed(fitted, folder / "x.npy", out) <= N - 3 * 4096
    fitted.predict_proba(folder / "x.npy", out=folder / f"whole{suffix}")
    assert files(out) == files(folder / f"whole{suffix}")


@pytest.mark.parametrize("method", ["predict", "score_samples", "impute"])
def test_all_that_is_said_of_rows_goes_on(
    method: str, folder: Path, fitted: GaussianMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder / "out.zarr"
    interrupted(fitted, folder / "x.npy", out, monkeypatch, method=method)
    assert getattr(fitted, method)(folder / "x.npy", out=out, resume=True) == out
    getattr(fitted, method)(folder / "x.npy", out=folder / "whole.zarr")
    assert files(out) == files(folder / "whole.zarr")


def test_without_resume_all_is_computed(
    folder: Path, fitted: GaussianMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder / "out.npy"
    interrupted(fitted, folder / "x.npy", out, monkeypatch)
    # What is left is of no use, and must not be used.
    with (part_of(out) / "out.npy").open("r+b") as unfinished:
        unfinished.seek(128)
        unfinished.write(b"\xff" * 10_000)
    fitted.predict_proba(folder / "x.npy", out=out)
    np.testing.assert_array_equal(np.load(out), fitted.predict_proba(np.load(folder / "x.npy")))
    assert not part_of(out).exists()


def test_with_nothing_to_resume_all_is_computed(folder: Path, fitted: GaussianMixture) -> None:
    out = folder / "out.npy"
    assert resumed(fitted, folder / "x.npy", out) == N
    with pytest.raises(ParameterError, match="resume=True needs out="):
        fitted.predict(np.load(folder / "x.npy"), resume=True)


Change = tuple[Callable[[GaussianMixture, np.ndarray, Path], Any], str]
OTHERS: dict[str, Change] = {
    "model": (
        lambda model, rows, out: (
            streamgmm.load(out.parent / "model.gmm")
            .set_params(means_init=model.means_ + 1.0, max_iter=0)
            .fit(rows[:3000])
            .predict_proba(out.parent / "x.npy", out=out, resume=True)
        ),
        "model was",
    ),
    "question": (
        lambda model, rows, out: model.score_samples(out.parent / "x.npy", out=out, resume=True),
        "what is computed was 'responsibilities' and is 'scores'",
    ),
    "name": (
        lambda model, rows, out: model.predict_proba(rows, out=out, resume=True),
        r"data was '.*x\.npy' and is 'X'",
    ),
    "missing": (
        lambda model, rows, out: model.predict_proba(
            streamgmm.open(out.parent / "x.npy", missing="drop"), out=out, resume=True
        ),
        "missing was 'error' and is 'drop'",
    ),
    "shape": (
        lambda model, rows, out: [
            np.save(out.parent / "x.npy", rows[:-1]),
            model.predict_proba(out.parent / "x.npy", out=out, resume=True),
        ],
        r"data shape was \[40000, 64\] and is \[39999, 64\]",
    ),
    "dtype": (
        lambda model, rows, out: [
            np.save(out.parent / "x.npy", rows.astype("f4")),
            model.predict_proba(out.parent / "x.npy", out=out, resume=True),
        ],
        "data dtype was '<f8' and is '<f4'",
    ),
}


# The other model is the start of a fit, which may have a component of few rows.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
@pytest.mark.parametrize("what", OTHERS)
def test_the_beginning_of_something_else_is_refused(
    what: str,
    folder: Path,
    rows: np.ndarray,
    fitted: GaussianMixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = folder / "out.npy"
    interrupted(fitted, folder / "x.npy", out, monkeypatch)
    before = files(part_of(out))
    ask, message = OTHERS[what]
    with pytest.raises(OutputError, match=rf"out\.npy\.part is the beginning .*: {message}"):
        ask(fitted, rows, out)
    assert files(part_of(out)) == before


def test_other_boxes_are_refused(
    folder: Path, fitted: GaussianMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube = xarray.DataArray(np.load(folder / "x.npy").reshape(200, 200, D), dims=("x", "y", "v"))
    by_x, by_y = (
        streamgmm.open(cube.chunk(chunks), feature_dim="v")
        for chunks in ({"x": 20, "y": 200}, {"x": 200, "y": 20})
    )
    assert list(by_x.boundaries) == list(by_y.boundaries)
    out = folder / "out.zarr"
    interrupted(fitted, by_x, out, monkeypatch)
    with pytest.raises(OutputError, match=r"out\.zarr\.part .*: chunks was"):
        fitted.predict_proba(by_y, out=out, resume=True)
    resumed(fitted, by_x, out)
    expected = fitted.predict_proba(by_y).values
    written = zarr.open_array(out, path="responsibility", mode="r")[...]
    np.testing.assert_allclose(written, expected, rtol=1e-12)


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_only_one_process_writes(suffix: str, folder: Path, fitted: GaussianMixture) -> None:
    out = folder / f"out{suffix}"
    pipe, other_end = processes.Pipe()
    process = processes.Process(target=write_with_pauses, args=(out, other_end))
    process.start()
    other_end.close()
    for resume in (False, True):
        assert pipe.recv() == "at work"
        with pytest.raises(OutputError, match="is being written by another process"):
            fitted.predict_proba(folder / "x.npy", out=out, resume=resume)
        pipe.send("go on")
    for _ in range(N_CHUNKS - 2):
        assert pipe.recv() == "at work"
        pipe.send("go on")
    process.join()
    assert process.exitcode == 0
    fitted.predict_proba(folder / "x.npy", out=folder / f"whole{suffix}")
    assert files(out) == files(folder / f"whole{suffix}")


def test_foreign_folders_are_left_alone(folder: Path, fitted: GaussianMixture) -> None:
    out = folder / "out.npy"
    part_of(out).mkdir()
    (part_of(out) / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match=r"out\.npy\.part is where .* holds thesis\.txt; move it"):
        fitted.predict(folder / "x.npy", out=out)
    assert files(part_of(out)) == {"thesis.txt": b"precious"}


def test_failures_before_the_first_chunk_leave_nothing(
    folder: Path, fitted: GaussianMixture
) -> None:
    bad = np.full((10, D), np.nan)
    with pytest.raises(NotFiniteError) as caught:
        fitted.predict(bad, out=folder / "out.zarr")
    assert not hasattr(caught.value, "__notes__")
    assert sorted(p.name for p in folder.iterdir()) == ["model.gmm", "x.npy"]


def test_what_had_the_name_comes_back(folder: Path, fitted: GaussianMixture) -> None:
    """If a process is killed between the two renamings that replace a folder."""
    out = folder / "out.zarr"
    zarr.create_array(out, data=np.arange(5))
    killed("npy", out, "chunk", 3, 0.0)
    out.rename(part_of(out) / "former")
    with pytest.raises(NotFiniteError):
        fitted.predict(np.full((10, D), np.nan), out=out)
    np.testing.assert_array_equal(zarr.open_array(out, mode="r")[:], np.arange(5))


@pytest.mark.parametrize("kind", ["npy", "boxes", "dask"])
def test_what_is_journalled_is_on_the_disk(
    kind: str, folder: Path, fitted: GaussianMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stored chunk of a journalled chunk was forced to the disk before, in its last form."""
    out = folder / "out.zarr"
    fsync, synced, n_checked = os.fsync, dict[Path, int](), 0

    def watching(descriptor: int) -> None:
        nonlocal n_checked
        fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced[path] = path.stat().st_ino
        if path.name == "journal.jsonl":
            inner = "responsibility" if kind == "boxes" else ""
            array = zarr.open_array(part_of(out) / "out.zarr", path=inner, mode="r")
            for i in journalled(out):
                rows = region_of(i)
                for key in keys_of(array, rows):
                    stored = part_of(out) / "out.zarr" / inner / key
                    assert synced[stored] == stored.stat().st_ino
                    assert stored.parent in synced
                    n_checked += 1

    monkeypatch.setattr(os, "fsync", watching)
    monkeypatch.setattr(file, "_SYNC_SECONDS", 0.0)
    data = described(kind, folder)
    region_of = streamgmm.protocols.regions_of(streamgmm.open(data))
    with dask.config.set(scheduler="synchronous"):
        fitted.set_params(n_jobs=1).predict_proba(data, out=out)
    assert n_checked >= N_CHUNKS


def keys_of(array: Any, region: tuple[slice, ...]) -> list[str]:
    """Keys of the stored chunks that hold a box, found the long way round."""
    places = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in region), indexing="ij"))
    stored = np.unique(places.reshape(len(region), -1).T // array.chunks[: len(region)], axis=0)
    return ["c/" + "/".join(map(str, [*place, 0])) for place in stored]


FULL = """
import os, sys
from pathlib import Path
import numpy as np
import streamgmm
from streamgmm.errors import OutputError
from streamgmm.sinks import file

file._SYNC_SECONDS = 0.0
folder, disk = map(Path, sys.argv[1:])
model = streamgmm.load(folder / "model.gmm").set_params(n_jobs=1)
filler = disk / "filler"
filler.write_bytes(bytes(1_700_000))
try:
    model.predict_proba(folder / "x.npy", out=disk / "out.npy")
except OutputError as error:
    print("refused:", error)
print(sorted(os.listdir(disk)))
try:
    model.predict_proba(folder / "x.npy", out=disk / "out.zarr")
except OSError as error:
    print("full:", error, *error.__notes__)
filler.unlink()
n_rows = 0
def count(event):
    global n_rows
    n_rows += getattr(event, "number", None) is None and event.n_rows
model.set_params(callbacks=[count])
model.predict_proba(folder / "x.npy", out=disk / "out.zarr", resume=True)
print("rows:", n_rows)
model.set_params(callbacks=[]).predict_proba(folder / "x.npy", out=folder / "whole.zarr")
from tests.test_resume import files
print(files(disk / "out.zarr") == files(folder / "whole.zarr"), sorted(os.listdir(disk)))
"""


def test_full_disks(folder: Path) -> None:
    """A disk of 2 MB, in a name space of its own, where the system lets everyone have one."""
    disk = folder / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=2M none {disk}"
    apart = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*apart, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no name spaces")
    command = f'{mount} && exec "$@"'
    arguments = [sys.executable, "-c", FULL, str(folder), str(disk)]
    done = subprocess.run(
        [*apart, command, "sh", *arguments], check=True, capture_output=True, text=True
    )
    refused, listed, full, n_rows, end = done.stdout.splitlines()
    assert "out.npy cannot be written: [Errno 28]" in refused
    assert listed == "['filler']"
    assert "[Errno 28]" in full
    assert "out.zarr.part; the same call with resume=True" in full
    assert 0 < int(n_rows.removeprefix("rows: ")) < N
    assert end == "True ['out.zarr']"


def test_places_that_take_no_files(folder: Path, fitted: GaussianMixture) -> None:
    with pytest.raises(OutputError, match=r"/proc/out\.npy cannot be written"):
        fitted.predict(folder / "x.npy", out="/proc/out.npy")


def command(folder: Path, words: list[str], stops: bool) -> None:
    """Run a command, which Ctrl-C stops after three chunks or not."""
    os.chdir(folder)
    errors = os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(errors, 2)
    file._SYNC_SECONDS = 0.0
    finish, n_done = file.FileSink.finish, itertools.count(1)

    def interrupting(sink: file.FileSink, i: int) -> None:
        finish(sink, i)
        if next(n_done) == 3 and stops:
            os.kill(os.getpid(), signal.SIGINT)

    file.FileSink.finish = interrupting  # type: ignore[method-assign]
    main(words)


@pytest.mark.parametrize(
    ("words", "method"),
    [
        (["predict"], "predict"),
        (["predict", "--proba"], "predict_proba"),
        (["score", "--samples"], "score_samples"),
    ],
    ids=str,
)
def test_commands_go_on(
    words: list[str], method: str, folder: Path, fitted: GaussianMixture
) -> None:
    def run(stops: bool, *more: str) -> tuple[int | None, str]:
        name, *options = words
        arguments = [name, "model.gmm", "x.npy", "-o", "out.npy", "-j", "1", *options, *more]
        process = processes.Process(target=command, args=(folder, arguments, stops))
        process.start()
        process.join()
        return process.exitcode, (folder / "stderr").read_text()

    code, printed = run(True)
    assert code == 130
    assert "interrupted; " in printed
    assert "out.npy.part; the same call with --resume continues" in printed
    code, printed = run(False, "--resume")
    assert code == 0, printed
    assert not part_of(folder / "out.npy").exists()
    getattr(fitted, method)(folder / "x.npy", out=folder / "whole.npy")
    assert files(folder / "out.npy") == files(folder / "whole.npy")
