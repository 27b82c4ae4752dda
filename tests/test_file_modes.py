"""Who may read files that are written or replaced, and under which names they appear."""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.cli import main
from streamgmm.errors import StreamGMMError

ROWS = np.random.default_rng(0).normal(size=(500, 2))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def model() -> GaussianMixture:
    return GaussianMixture(1).fit(ROWS)


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> int:
    before = os.umask(request.param)
    request.addfinalizer(lambda: os.umask(before))
    return int(request.param)


def saved(model: GaussianMixture, folder: Path) -> Path:
    model.save(folder / "m.gmm")
    return folder / "m.gmm"


def updated(model: GaussianMixture, folder: Path) -> Path:
    streamgmm.update(folder / "u.gmm", ROWS, n_components=1)
    return folder / "u.gmm"


def predicted(suffix: str) -> Callable[[GaussianMixture, Path], Path]:
    def write(model: GaussianMixture, folder: Path) -> Path:
        return Path(model.predict(ROWS, out=folder / f"labels{suffix}"))

    return write


@pytest.mark.parametrize("write", [saved, updated, predicted(".npy"), predicted(".zarr")])
def test_a_new_file_has_the_mode_that_the_umask_leaves(
    write: Callable[..., Path], model: GaussianMixture, umask: int, tmp_path: Path
) -> None:
    path = write(model, tmp_path)
    assert mode(path) == (0o777 if path.is_dir() else 0o666) & ~umask


@pytest.mark.parametrize("write", [saved, updated, predicted(".npy"), predicted(".zarr")])
@pytest.mark.parametrize("kept", [0o700, 0o750, 0o777])
def test_a_replaced_file_keeps_its_mode(
    write: Callable[..., Path], kept: int, model: GaussianMixture, umask: int, tmp_path: Path
) -> None:
    path = write(model, tmp_path)
    expected = kept if path.is_dir() else kept & 0o666
    path.chmod(expected)
    assert mode(write(model, tmp_path)) == expected


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("write", [saved, updated, predicted(".npy"), predicted(".zarr")])
def test_a_replaced_file_keeps_its_owner(
    write: Callable[..., Path], model: GaussianMixture, tmp_path: Path
) -> None:
    path = write(model, tmp_path)
    os.chown(path, 1234, 2345)
    found = write(model, tmp_path).stat()
    assert (found.st_uid, found.st_gid) == (1234, 2345)


def test_an_unfinished_output_is_as_private_as_what_it_replaces(
    model: GaussianMixture, tmp_path: Path
) -> None:
    path = model.predict(ROWS, out=tmp_path / "labels.npy")
    path.chmod(0o600)
    seen: list[int] = []

    def look(event: object) -> None:
        seen.extend(mode(folder) for folder in tmp_path.glob("*.part"))

    model.set_params(callbacks=[look]).predict(ROWS, out=path)
    assert set(seen) == {0o700}


def test_a_checkpoint_is_private(umask: int, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    GaussianMixture(2, checkpoint=folder, random_state=0).fit(ROWS)
    assert mode(folder) == 0o700
    assert {mode(path) for path in folder.glob("*.*")} == {0o600}


def test_links_are_followed(model: GaussianMixture, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for name in ("m.gmm", "labels.npy"):
        (tmp_path / name).symlink_to(tmp_path / "real" / name)
    model.save(tmp_path / "m.gmm")
    for _ in range(2):
        model.predict(ROWS, out=tmp_path / "labels.npy")
    for name in ("m.gmm", "labels.npy"):
        assert (tmp_path / name).is_symlink()
    assert streamgmm.load(tmp_path / "real" / "m.gmm").means_ == pytest.approx(model.means_)
    assert not np.load(tmp_path / "real" / "labels.npy").any()


@pytest.mark.parametrize("n_bytes", [200, 201, 240, 241, 255])
def test_names_as_long_as_the_file_system_takes(n_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / ("ä" * ((n_bytes - 5) // 2) + ".gmm").rjust(n_bytes - (n_bytes - 5) // 2, "m")
    assert len(os.fsencode(path.name)) == n_bytes
    OnlineGaussianMixture(1).save(path)
    streamgmm.update(path, ROWS)
    assert streamgmm.load(path).n_samples_seen_ == len(ROWS)


def test_names_that_are_too_long_are_refused_before_the_work(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    arguments = ["fit", str(tmp_path / "rows.npy"), "-k", "1", "-o", str(tmp_path / ("m" * 252))]
    arguments[-1] += ".gmm"
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 2
    assert "its name is longer than the 250 bytes" in found.output
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npy"]


def test_names_of_features_cannot_steer_a_terminal(model: GaussianMixture, tmp_path: Path) -> None:
    model.feature_names_in_ = np.array(["\x1b[31mred\x07", "[bold]b[/bold]"], dtype=object)
    model.save(tmp_path / "m.gmm")
    found = CliRunner().invoke(main, ["info", str(tmp_path / "m.gmm")])
    assert found.exit_code == 0
    assert all(char.isprintable() or char == "\n" for char in found.output)
    assert r"\x1b[31mred\x07" in found.output
    assert "[bold]b[/bold]" in found.output


@pytest.mark.parametrize("write", [saved, updated, predicted(".npy")])
def test_a_pipe_is_not_replaced(
    write: Callable[..., Path], model: GaussianMixture, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("m.gmm", "u.gmm", "labels.npy")]
    for path in paths:
        os.mkfifo(path)
    with pytest.raises(StreamGMMError, match="a device or a pipe"):
        write(model, tmp_path)
    assert all(stat.S_ISFIFO(path.stat().st_mode) for path in paths)
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_a_disk_that_is_full_is_an_error_that_names_the_output(suffix: str, tmp_path: Path) -> None:
    code = f"""
import resource
import numpy as np
from streamgmm import GaussianMixture
from streamgmm.errors import OutputError
rows = np.random.default_rng(0).normal(size=(20_000, 2))
model = GaussianMixture(2, random_state=0).fit(rows)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
try:
    model.predict_proba(rows, out="out{suffix}")
except OutputError as error:
    print(error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert re.search(rf"out{suffix}\S* cannot be written: .*too large", ended.stdout)
    assert not (tmp_path / f"out{suffix}").exists()
