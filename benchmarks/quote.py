"""Copy tables of results into the documentation, so that no figure is typed by hand.

``python -m benchmarks.quote [--check]``

In the README and the pages of ``docs``, table N of ``results/NAME.md`` stands between
``<!-- quote: NAME N [PATTERN] -->`` and ``<!-- end -->``, with the command and the machine that
made it. If there is a pattern, only the rows that match it are copied.
"""

import argparse
import re
from pathlib import Path

from benchmarks.reporting import RESULTS

_ROOT = RESULTS.parents[1]
_QUOTATION = re.compile(
    r"(<!-- quote: (\w+) (\d+)(?: (?!-->)([^\n]+?))? -->\n).*?(<!-- end -->)", re.DOTALL
)


def quoted(name: str, number: int, pattern: str | None) -> str:
    """Return a table of results in the form for a page."""
    parts = (RESULTS / f"{name}.md").read_text().strip().split("\n\n")
    command, machine = parts[:2]
    header, rule, *rows = [part for part in parts if part.startswith("|")][number - 1].splitlines()
    chosen = [row for row in rows if pattern is None or re.search(pattern, row)]
    return "\n".join([header, rule, *chosen, "", f"{command} on {machine}."])


def with_quotations(text: str) -> str:
    """Return the text of a page with the tables of the present results."""
    return _QUOTATION.sub(
        lambda found: f"{found[1]}{quoted(found[2], int(found[3]), found[4])}\n{found[5]}", text
    )


def pages() -> list[Path]:
    """Return the README and the pages of the documentation."""
    return [_ROOT / "README.md", *sorted((_ROOT / "docs").rglob("*.md"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a page differs")
    options = parser.parse_args()
    for page in pages():
        text = page.read_text()
        new = with_quotations(text)
        if options.check and new != text:
            raise SystemExit(f"{page.relative_to(_ROOT)} does not have the tables of the results")
        if new != text:
            page.write_text(new)


if __name__ == "__main__":
    main()
