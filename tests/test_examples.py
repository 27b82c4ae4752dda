"""Every example runs as its first lines say."""

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
    ended = run(example, tmp_path, *arguments(example))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout
    assert any(tmp_path.iterdir())


def test_a_volume_that_is_not_there_is_named_with_where_to_get_one(tmp_path: Path) -> None:
    (example,) = (path for path in EXAMPLES if path.stem == "brain_tissue")
    ended = run(example, tmp_path, "absent.nii")
    assert ended.returncode == 1
    assert ended.stderr.startswith("absent.nii is not there")
    assert "apt-get install mricron-data" in ended.stderr
