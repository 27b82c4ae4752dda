"""What sphinx-gallery calls around the examples."""

import shutil
from pathlib import Path
from typing import Any

from sphinx_gallery.scrapers import figure_rst

DOCS = Path(__file__).parent
#: Examples write files beside themselves, so copies of them run, out of the way of git.
COPIES = DOCS / "_build" / "examples"


def copy_examples() -> None:
    """Copy the examples to the folder where they run."""
    shutil.rmtree(COPIES, ignore_errors=True)
    shutil.copytree(DOCS.parent / "examples", COPIES)


def remove_outputs(gallery_conf: dict[str, Any], example: str) -> None:
    """Remove what the previous example has written, so that each begins in an empty folder."""
    for path in COPIES.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix not in (".py", ".rst"):
            path.unlink()


def take_pictures(block: tuple, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Move the pictures that a block has saved into the gallery, and return their markup."""
    taken = []
    for picture in sorted(COPIES.glob("*.png")):
        taken.append(next(block_vars["image_path_iterator"]))
        shutil.move(picture, taken[-1])
    return figure_rst(taken, gallery_conf["src_dir"])
