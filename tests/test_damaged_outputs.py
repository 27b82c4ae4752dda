"""Unfinished outputs that were damaged: they are computed again where it is needed, or refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from streamgmm import GaussianMixture
from streamgmm.errors import OutputError
from streamgmm.events import ChunkDone, Event
from streamgmm.sinks import file
from streamgmm.testing.chunked import ChunkedSource

SORTED = np.sort(np.random.default_rng(0).normal(size=200) + 8.0 * (np.arange(200) >= 100))
ROWS = np.column_stack([SORTED, SORTED])
# Boundaries of chunks whose boxes have stored chunks of their own, and of others that share them.
OWN, SHARED = [*range(0, 201, 25)], [0, 30, 70, 110, 150, 200]


@pytest.fixture(scope="module")
def fitted() -> GaussianMixture:
    return GaussianMixture(2, random_state=0, n_jobs=1).fit(ROWS)


@pytest.fixture(params=[".npy", ".zarr", ".zarr shared"])
def begun(
    request: pytest.FixtureRequest,
    fitted: GaussianMixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> "Begun":
    suffix, *is_shared = request.param.split()
    monkeypatch.setattr(file, "_SYNC_SECONDS", 0.0)
    boundaries = SHARED if is_shared else OWN
    return Begun(
        fitted, ChunkedSource(ROWS, boundaries=boundaries, read_bytes=0), tmp_path / f"out{suffix}"
    )


class Begun:
    """An output that was interrupted after five chunks or a little more."""

    def __init__(self, model: GaussianMixture, source: ChunkedSource, out: Path) -> None:
        self.model, self.source, self.out = model, source, out
        self.part = out.with_name(f"{out.name}.part")
        whole = out.with_name(f"whole{out.suffix}")
        model.predict_proba(source, out=whole)
        self.whole = values(whole)

        def stop(event: Event) -> None:
            nonlocal n_left
            n_left -= isinstance(event, ChunkDone)
            if n_left == 0:
                raise KeyboardInterrupt

        n_left = 5
        with pytest.raises(KeyboardInterrupt):
            self.resume([stop])
        self.kept = out.with_name("kept")
        self.part.rename(self.kept)

    def resume(self, callbacks: list[Callable[[Event], None]]) -> None:
        model = GaussianMixture(2, n_jobs=1, callbacks=callbacks)
        vars(model).update({k: v for k, v in vars(self.model).items() if k.endswith("_")})
        model.predict_proba(self.source, out=self.out, resume=True)

    def files(self) -> list[Path]:
        """Every file of what was kept, relative to its folder."""
        return sorted(p.relative_to(self.kept) for p in self.kept.rglob("*") if p.is_file())

    def rows_after(self, damage: Callable[[Path], object]) -> int | None:
        """Damage a copy of what was kept and resume; gives rows that are computed.

        None if it was refused, with the name of the folder.
        """
        for path in (self.part, self.out):
            shutil.rmtree(path, ignore_errors=True)
        self.out.unlink(missing_ok=True)
        shutil.copytree(self.kept, self.part)
        damage(self.part)
        n_rows = 0

        def count(event: Event) -> None:
            nonlocal n_rows
            n_rows += event.n_rows if isinstance(event, ChunkDone) else 0

        try:
            self.resume([count])
        except OutputError as error:
            assert str(self.part) in str(error)
            return None
        np.testing.assert_array_equal(values(self.out), self.whole)
        assert not self.part.exists()
        return n_rows


def values(path: Path) -> Any:
    return np.load(path) if path.suffix == ".npy" else zarr.open_array(path, mode="r")[:]


def journalled(folder: Path) -> set[int]:
    """Chunks that a journal says are done."""
    lines = (folder / "journal.jsonl").read_text().splitlines()[1:]
    return {i for line in lines for i in json.loads(line)["chunks"]}


def flipped(name: Path, place: int, mask: int) -> Callable[[Path], None]:
    """Change a byte of a file."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[place] ^= mask
        (folder / name).write_bytes(content)

    return damage


def truncated(name: Path) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def test_what_is_whole_is_not_computed_again(begun: Begun) -> None:
    n_rows = begun.source.n_rows - begun.source.boundaries[len(journalled(begun.kept))]
    assert begun.rows_after(lambda folder: None) == n_rows


def test_any_damaged_byte_of_any_file_is_found(begun: Begun) -> None:
    random = np.random.default_rng(0)
    n_again = 0
    n_rows = begun.rows_after(lambda folder: None)
    assert n_rows is not None
    for name in begun.files():
        size = (begun.kept / name).stat().st_size
        for place in random.choice(size, min(size, 12), replace=False).tolist():
            found = begun.rows_after(flipped(name, place, int(random.integers(1, 256))))
            n_again += found is None or found > n_rows
    # Chunks that were not written yet may be damaged without harm.
    assert n_again >= 15


def test_files_that_are_missing_or_truncated_are_found(begun: Begun) -> None:
    n_rows = begun.rows_after(lambda folder: None)
    assert n_rows is not None
    for name in begun.files():
        for damage in (lambda folder, name=name: (folder / name).unlink(), truncated(name)):
            found = begun.rows_after(damage)
            assert found is None or found > n_rows, name


def test_files_that_are_swapped_or_empty_are_found(
    fitted: GaussianMixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "_SYNC_SECONDS", 0.0)
    begun = Begun(fitted, ChunkedSource(ROWS, boundaries=OWN, read_bytes=0), tmp_path / "out.zarr")
    first, second = (Path("out.zarr") / f"c/{i}/0" for i in (0, 3))

    def swap(folder: Path) -> None:
        contents = [(folder / name).read_bytes() for name in (first, second)]
        for name, content in zip((second, first), contents, strict=True):
            (folder / name).write_bytes(content)

    n_rows = begun.rows_after(lambda folder: None)
    assert n_rows is not None
    assert begun.rows_after(swap) == n_rows + 50
    assert begun.rows_after(lambda folder: (folder / first).write_bytes(b"")) == n_rows + 25


def test_chunks_of_zeros_which_have_no_file_are_not_computed_again(
    fitted: GaussianMixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zarr stores no file for them, and so a file that is absent may be right."""
    monkeypatch.setattr(file, "_SYNC_SECONDS", 0.0)
    out, seen = tmp_path / "labels.zarr", 0
    source = ChunkedSource(ROWS, boundaries=OWN, read_bytes=0)

    def stop(event: Event) -> None:
        nonlocal seen
        seen += isinstance(event, ChunkDone)
        if seen == 6:
            raise KeyboardInterrupt

    model = GaussianMixture(2, n_jobs=1, callbacks=[stop])
    vars(model).update({k: v for k, v in vars(fitted).items() if k.endswith("_")})
    with pytest.raises(KeyboardInterrupt):
        model.predict(source, out=out)
    part = out.with_name("labels.zarr.part")
    stored = sorted(path.name for path in (part / "labels.zarr" / "c").iterdir())
    # Half of the labels are 0.
    assert 0 < len(stored) < 6
    (part / "labels.zarr" / "c" / stored[0]).unlink()
    n_left = source.n_chunks - len(journalled(part))
    seen, source.n_reads = 10, 0
    model.predict(source, out=out, resume=True)
    assert source.n_reads == n_left + 1
    np.testing.assert_array_equal(values(out), fitted.predict(ROWS))


def test_outputs_without_digests_are_computed_again(begun: Begun) -> None:
    """As older releases have left them."""

    def make_old(folder: Path) -> None:
        journal = folder / "journal.jsonl"
        first, *rest = map(json.loads, journal.read_text().splitlines())
        del first["layout"]
        for line in rest:
            del line["digests"]
        journal.write_text("".join(json.dumps(line) + "\n" for line in (first, *rest)))

    assert begun.rows_after(make_old) == begun.source.n_rows


@pytest.mark.parametrize(
    "line",
    [
        '{"chunks": [7], "digests": []}',
        '{"chunks": 7, "digests": ["00"]}',
        '{"chunks": [[7]], "digests": ["00"]}',
        '{"chunks": [7], "digests": ["xx"]}',
        '{"chunks": [7], "digests": [null]}',
        '{"chunks": [1000, -1], "digests": ["00", "00"]}',
        "[]",
        "3",
        "{}",
        "[" * 100_000,
    ],
)
def test_lines_of_a_journal_that_say_nothing_count_for_nothing(line: str, begun: Begun) -> None:
    def add(folder: Path) -> None:
        with (folder / "journal.jsonl").open("a") as journal:
            journal.write(f"{line}\n")

    assert begun.rows_after(add) == begun.rows_after(lambda folder: None)
