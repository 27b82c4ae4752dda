"""Copies tables of results into the README, so that no figure in it is typed.

``python -m benchmarks.quote [--check]``

Between ``<!-- quote: NAME N [PATTERN] -->`` and ``<!-- end -->`` stands table N of
``results/NAME.md``, with the command and the machine that made it; of its rows those that match
the pattern, if there is one.
"""

import argparse
import re

from benchmarks.reporting import RESULTS

README = RESULTS.parents[1] / "README.md"
_QUOTATION = re.compile(
    r"(<!-- quote: (\w+) (\d+)(?: (?!-->)([^\n]+?))? -->\n).*?(<!-- end -->)", re.DOTALL
)


def quoted(name: str, number: int, pattern: str | None) -> str:
    """A table of results as it stands in the README."""
    parts = (RESULTS / f"{name}.md").read_text().strip().split("\n\n")
    command, machine = parts[:2]
    header, rule, *rows = [part for part in parts if part.startswith("|")][number - 1].splitlines()
    chosen = [row for row in rows if pattern is None or re.search(pattern, row)]
    return "\n".join([header, rule, *chosen, "", f"{command} on {machine}."])


def with_quotations(text: str) -> str:
    """The README with its tables as the results have them now."""
    return _QUOTATION.sub(
        lambda found: f"{found[1]}{quoted(found[2], int(found[3]), found[4])}\n{found[5]}", text
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the README differs")
    options = parser.parse_args()
    text = README.read_text()
    new = with_quotations(text)
    if options.check and new != text:
        raise SystemExit("README.md does not have the tables of benchmarks/results")
    README.write_text(new)


if __name__ == "__main__":
    main()
