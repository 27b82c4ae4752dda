"""The documentation is true: its code runs, prints what it shows, and its links lead somewhere.

A block of Python or of `streamgmm` commands runs, in the order of its page and in one folder per
page. A block marked ``text`` shows what the block before it prints. A block that cannot run here
has a comment above it with the reason: ``<!-- not run: REASON -->``.
"""

import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from streamgmm import cli

ROOT = Path(__file__).parent.parent
# Of the changelog every entry is prose; tutorials are built from the examples, which are tests.
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    if not {"_build", "tutorials"} & set(path.parts)
)
_BLOCK = re.compile(
    r"(?:^ *<!-- not run: (?P<reason>[^\n]+) -->\n)?"
    r"^(?P<indent> *)```(?P<language>python|sh|text)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"!?\[[^\]]*\]\((?!https?:|mailto:)(?P<target>[^)#\s]+)(?:#[^)]*)?\)")


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    language: str
    code: str
    line: int
    reason: str | None


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(
            match["language"],
            dedent(match["code"]),
            text.count("\n", 0, match.start("code")) + 1,
            match["reason"],
        )
        for match in _BLOCK.finditer(text)
    ]


def run(block: Block, page: Path, names: dict[str, Any]) -> None:
    """Run a block of Python or of commands."""
    if block.language == "python":
        # Newlines in front give errors the line of the page.
        exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), names)
        return
    for command in block.code.replace("\\\n", " ").strip().splitlines():
        program, *words = shlex.split(command, comments=True)
        assert program == "streamgmm", f"{page}:{block.line} cannot be run: {command}"
        with pytest.raises(SystemExit) as stop:
            cli.main(words, prog_name="streamgmm")
        assert not stop.value.code, f"{page}:{block.line} failed: {command}"


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks_of(page)],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_code_runs_and_prints_what_is_shown(page, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    printed = None
    for block in blocks_of(page):
        if block.reason is not None:
            printed = None
        elif block.language == "text":
            assert printed is not None, f"{page}:{block.line} is the output of no block"
            assert printed == block.code, f"{page}:{block.line} is not what the code prints"
        else:
            run(block, page, names)
            printed = capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page) -> None:
    targets = [match["target"] for match in _LINK.finditer(page.read_text())]
    absent = [target for target in targets if not (page.parent / target).exists()]
    assert not absent


def test_links_of_the_readme_work_on_the_package_index() -> None:
    """The package index shows the README alone, so its links have to be absolute there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if "urls" not in project:
        pytest.skip("pyproject.toml names no repository, so there is nothing to link to")
    assert not _LINK.search((ROOT / "README.md").read_text())


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
