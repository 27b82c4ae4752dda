"""Several writers of one model's file: what was acknowledged is in it, or its writer is told."""

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture, model_files
from streamgmm.cli import main
from streamgmm.errors import OutputError, StreamGMMError

Model = GaussianMixture | OnlineGaussianMixture


def rows(n_rows: int = 300, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(n_rows, 2)) + 8.0 * random.integers(0, 2, (n_rows, 1))


def batch(seed: int = 0) -> GaussianMixture:
    return GaussianMixture(2, random_state=0).fit(rows(seed=seed))


def online() -> OnlineGaussianMixture:
    return OnlineGaussianMixture(2, init_size=200, random_state=0).partial_fit(rows())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.gmm"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_refused(save: Callable[[], object], path: Path, message: str) -> None:
    """A save is refused, names the ways out, and changes nothing."""
    before, listed = path.read_bytes(), names(path.parent)
    way_out = "load the file again .*, save under another name, or remove the file first"
    with pytest.raises(OutputError, match=rf"m\.gmm {message}.*; {way_out}") as caught:
        save()
    assert isinstance(caught.value, StreamGMMError)
    assert path.read_bytes() == before
    assert names(path.parent) == listed


CHANGED = "was changed after this model was loaded from it or saved to it"
UPDATED = r"would lose what streamgmm\.update has learned there"


@pytest.mark.parametrize("make", [batch, online])
def test_saving_again_replaces(make: Callable[[], Model], path: Path) -> None:
    for _ in range(2):
        # As in a script that is run again.
        model = make()
        model.save(path)
        model.save(path)
        loaded = streamgmm.load(path)
        loaded.save(path)
        loaded.save(path.with_name("other.gmm"))
        loaded.save(path)
        path.unlink()
        loaded.save(path)
    assert names(path.parent) == ["m.gmm", "other.gmm"]


@pytest.mark.parametrize("make", [batch, online])
@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_file_that_was_changed_is_not_replaced(
    make: Callable[[], Model], is_loaded: bool, path: Path
) -> None:
    model = make()
    model.save(path)
    if is_loaded:
        model = streamgmm.load(path)
    batch(seed=1).save(path)
    assert_refused(lambda: model.save(path), path, CHANGED)
    # As the message says:
    streamgmm.load(path).save(path)
    model.save(path.with_name("other.gmm"))
    path.unlink()
    model.save(path)


def test_the_same_content_is_no_change(path: Path) -> None:
    model = batch()
    model.save(path)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    model.save(path)
    # The name of the file does not matter, and neither does a link to it.
    link = path.with_name("link.gmm")
    link.symlink_to(path.name)
    batch(seed=1).save(link)
    assert_refused(lambda: model.save(link), path, CHANGED)


@pytest.mark.parametrize("batch_id", ["a", None])
def test_what_updates_have_learned_is_not_lost(batch_id: str | None, path: Path) -> None:
    online().save(path)
    before = streamgmm.load(path)
    streamgmm.update(path, rows(50, 1), batch_id)
    assert_refused(lambda: before.save(path), path, CHANGED)
    assert_refused(lambda: online().save(path), path, UPDATED)
    assert_refused(lambda: batch().save(path), path, UPDATED)
    # A model that was loaded and saved knows what updates have learned.
    loaded = streamgmm.load(path)
    assert isinstance(loaded, OnlineGaussianMixture)
    loaded.partial_fit(rows(10, 2)).save(path)
    assert_refused(lambda: online().save(path), path, UPDATED)
    # As the message says:
    path.unlink()
    online().save(path)
    batch().save(path)


def test_the_model_that_an_update_returns_knows_its_file(path: Path) -> None:
    batch().save(path)
    model = streamgmm.update(path, rows(50, 1), "a")
    model.partial_fit(rows(10, 2)).save(path)
    streamgmm.update(path, rows(50, 3), "b")
    assert_refused(lambda: model.save(path), path, CHANGED)
    assert streamgmm.load(path).n_samples_seen_ == 410  # type: ignore[union-attr]


def test_files_of_older_releases_keep_what_updates_have_learned(path: Path) -> None:
    from tests.test_persistence import rewrite

    online().save(path)
    streamgmm.update(path, rows(50, 1), "a")
    ledger = dict(streamgmm.load(path).state_.ledger.to_header())  # type: ignore[union-attr]
    del ledger["has_updates"]
    rewrite(path, {"ledger": ledger})
    assert_refused(lambda: online().save(path), path, UPDATED)


def test_a_damaged_file_is_replaced(path: Path) -> None:
    path.write_text("no model")
    batch().save(path)
    assert streamgmm.load(path).n_components == 2


def test_fits_of_the_command_line_are_refused_before_the_work(path: Path) -> None:
    online().save(path)
    streamgmm.update(path, rows(50, 1), "a")
    np.save(path.with_name("rows.npy"), rows())
    arguments = ["fit", str(path.with_name("rows.npy")), "-k", "2", "-o", str(path)]
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 2
    assert re.search(r"error: .*m\.gmm would lose what streamgmm update has", found.output)
    # Not even the data were opened.
    path.with_name("rows.npy").unlink()
    assert CliRunner().invoke(main, arguments).output == found.output


def test_writers_wait_for_each_other(path: Path) -> None:
    """Saves that meet are not lost, and none of them fails."""
    models = [batch(seed) for seed in range(4)]
    errors: list[BaseException] = []

    def save(model: GaussianMixture) -> None:
        try:
            for _ in range(20):
                # A model of its own each time: it may replace what others have saved.
                streamgmm.GaussianMixture.from_sklearn(model.to_sklearn()).save(path)
        except BaseException as error:  # noqa: BLE001 - all are reported below
            errors.append(error)

    threads = [threading.Thread(target=save, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert names(path.parent) == ["m.gmm"]
    assert streamgmm.load(path).n_components == 2


def test_a_file_that_is_kept_is_not_waited_for_without_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "_PATIENCE", 0.05)
    model = online()
    model.save(path)
    message = r"m\.gmm is being updated by another process, which has .*\.m\.gmm\.lock locked"

    def batches():  # type: ignore[no-untyped-def]
        yield rows(10, 1)
        with pytest.raises(OutputError, match=message):
            model.save(path)
        with pytest.raises(OutputError, match=message):
            streamgmm.update(path, rows(10, 2))
        yield rows(10, 3)

    assert streamgmm.update(path, batches()).n_samples_seen_ == 320
    assert names(path.parent) == ["m.gmm"]


def test_unfinished_parts_are_removed_by_those_who_hold_the_file(path: Path) -> None:
    part = path.with_name(".m.gmm.01234567.part")
    part.touch()
    other = path.with_name(".n.gmm.01234567.part")
    other.touch()
    batch().save(path)
    assert names(path.parent) == [".n.gmm.01234567.part", "m.gmm"]


def test_a_place_of_a_lock_that_leads_elsewhere_is_refused(path: Path) -> None:
    path.with_name("precious").write_text("precious")
    path.with_name(".m.gmm.lock").symlink_to("precious")
    for write in (lambda: batch().save(path), lambda: streamgmm.update(path, rows(), "a")):
        with pytest.raises(OutputError, match=r"m\.gmm cannot be written"):
            write()
    assert path.with_name("precious").read_text() == "precious"


def test_mixed_writers_lose_nothing_that_was_acknowledged() -> None:
    command = [sys.executable, "-m", "benchmarks.writers", "--small"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
