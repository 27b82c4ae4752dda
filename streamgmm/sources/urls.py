"""What the text of a path or URL says by itself: what kind of file it names, what may be shown."""

import re
from glob import has_magic
from pathlib import PurePosixPath

#: Suffixes of Parquet files.
PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")

# What is in an archive, or below a folder, which the next link of a chain names.
_WITHIN = ("zip://", "tar://", "libarchive://", "dir://")
_USER = re.compile(r"(?<=://)[^/\s'\"]*@")
# What signs a URL, and what a browser adds to it.
_QUERY = re.compile(r"(https?://[^\s?#'\"]*)[?#][^\s'\"]*")


class FetchError(OSError):
    """A file at a URL cannot be read; the message names it and says why."""


class MissingFileError(FetchError, FileNotFoundError):
    """There is no file at a URL."""


def is_url(text: str) -> bool:
    """Whether a text is a URL and not a path, ``file://`` apart."""
    return "://" in text and not text.startswith("file://")


def is_pattern(text: str) -> bool:
    """Return whether a text may be a pattern of paths."""
    return has_magic(text) and "\0" not in text


def split(text: str) -> tuple[str, str | None]:
    """A path or URL, and the path within it that may follow as in ``file.h5::/group/data``.

    Of ``zip://x.h5::/folder/a.zip`` the second part is the archive that the URL needs.
    """
    text = text.removeprefix("file://")
    start = text.find("::") + 2 if text.startswith(_WITHIN) else 0
    separator = text.find("::/", start)
    return (text, None) if separator < 0 else (text[:separator], text[separator + 2 :])


def suffix(location: str) -> str:
    """The suffix of the file that a path or URL names, in lower case.

    A query does not belong to it. Of chained URLs the first that has a path is the file:
    ``zip://inner.parquet::https://host/outer.zip``, ``simplecache::s3://bucket/x.parquet``.
    """
    links = [link for link in location.split("::") if not link.endswith("://") and "://" in link]
    target = links[0] if links else location
    return PurePosixPath(_QUERY.sub(r"\1", target)).suffix.lower()


def without_credentials(text: str) -> str:
    """A text without what signs the URLs in it, and without their users and passwords."""
    return _USER.sub("", _QUERY.sub(r"\1", text))
