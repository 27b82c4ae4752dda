"""Every example runs as its first lines say."""

import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
BRAIN = Path("/usr/share/mricron/templates/ch2bet.nii.gz")


def arguments(example: Path) -> list[str]:
    """What follows the example's name: the brain is fetched where Debian has not installed it."""
    if example.stem != "brain_tissue" or BRAIN.exists():
        return []
    try:
        urllib.request.urlopen("https://deb.debian.org", timeout=10).close()
    except urllib.error.HTTPError:
        pass
    except OSError as error:
        pytest.skip(f"{BRAIN} is not installed, and Debian's archive is out of reach: {error}")
    return ["--download"]


def run(example: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(example), *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs_in_an_empty_folder(example: Path, tmp_path: Path) -> None:
    if example.stem == "redis_stream" and shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server brings it")
    ended = run(example, tmp_path, *arguments(example))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout
    assert any(tmp_path.iterdir())


def test_a_second_night_learns_its_own_rows_alone(tmp_path: Path) -> None:
    (example,) = (path for path in EXAMPLES if path.stem == "nightly_appends")
    first, again = (run(example, tmp_path) for _ in range(2))
    assert first.stdout.count("learned 100,000 rows") == 5
    assert "500,000 in all" in first.stdout
    assert "learned" not in again.stdout
    assert first.stdout.splitlines()[-3:] == again.stdout.splitlines()[-3:]


def test_a_volume_that_is_not_there_is_named_with_where_to_get_one(tmp_path: Path) -> None:
    (example,) = (path for path in EXAMPLES if path.stem == "brain_tissue")
    ended = run(example, tmp_path, "absent.nii")
    assert ended.returncode == 1
    assert ended.stderr.startswith("absent.nii is not there")
    assert "apt-get install mricron-data" in ended.stderr
