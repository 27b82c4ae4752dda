"""The text of a path or URL: the kind of file that it names, and the part that may be shown."""

from glob import has_magic
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

#: Suffixes of Parquet files.
PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")

# Protocols of files in an archive, or below a folder, that the next link of a chain names.
_WITHIN = ("zip://", "tar://", "libarchive://", "dir://")
# Characters that begin a query or a fragment, plain or escaped.
_MARKS = ("?", "#", "%3f", "%23")
_QUOTES = "'\"`"


class FetchError(OSError):
    """A file at a URL cannot be read; the message names it and says why."""


class MissingFileError(FetchError, FileNotFoundError):
    """There is no file at a URL."""


def is_url(text: str) -> bool:
    """Return whether a text is a URL and not a path, ``file://`` apart."""
    return "://" in text and not text.startswith("file://")


def is_pattern(text: str) -> bool:
    """Return whether a text may be a pattern of paths."""
    return has_magic(text) and "\0" not in text


def split(text: str) -> tuple[str, str | None]:
    """Return a path or URL, and the path within it that may follow as in ``file.h5::/group/data``.

    Of ``zip://x.h5::/folder/a.zip`` the second part is the archive that the URL needs.
    """
    text = text.removeprefix("file://")
    start = text.find("::") + 2 if text.startswith(_WITHIN) else 0
    separator = text.find("::/", start)
    return (text, None) if separator < 0 else (text[:separator], text[separator + 2 :])


def suffix(location: str) -> str:
    """Return the suffix of the file that a path or URL names, in lower case.

    A query does not belong to it. Of chained URLs the first that has a path is the file:
    ``zip://inner.parquet::https://host/outer.zip``, ``simplecache::s3://bucket/x.parquet``.
    """
    links = [link for link in location.split("::") if not link.endswith("://") and "://" in link]
    target = links[0] if links else location
    return PurePosixPath(target[: _end_of_path(target)]).suffix.lower()


def without_credentials(text: str) -> str:
    """Return a URL, or a text with URLs, without users, passwords, queries and fragments.

    Links of a chain are URLs of their own. A query in a text ends with the quotation marks around
    its URL, or with the line: a blank or a quotation mark may be a part of a signature.
    """
    return "\n".join(_line_without_credentials(line) for line in text.split("\n"))


def _line_without_credentials(line: str) -> str:
    start = _start_of_url(line)
    if start is None:
        return line
    before, url = line[:start], line[start:]
    quote = before[-1:]
    last = url.rfind(quote) if quote and quote in _QUOTES else -1
    url, after = (url, "") if last < 0 else (url[:last], url[last:])
    return before + _chain_without_credentials(url) + after


def _start_of_url(line: str) -> int | None:
    """Return where the first URL of a line begins, or None if there is none."""
    separator = line.find("://")
    if separator < 0:
        return None
    start = separator
    while start > 0 and (line[start - 1].isalnum() or line[start - 1] in "+-.:"):
        start -= 1
    return start


def _chain_without_credentials(chain: str) -> str:
    """Return chained URLs without credentials; a link that only a query can hold goes with it."""
    shown: list[str] = []
    has_query = False
    for link in chain.split("::"):
        if "://" in link:
            end = _end_of_path(link)
            has_query = end < len(link)
            shown.append(_without_users(link[:end]))
        elif not has_query or link.startswith("/"):
            shown.append(link)
    return "::".join(shown)


def _end_of_path(url: str) -> int:
    """Return where the path of a URL ends and its query or fragment begins."""
    lowered = url.lower()
    is_web = lowered.startswith(("http://", "https://"))
    places = (
        place
        for place in range(len(lowered))
        if lowered.startswith(_MARKS, place) and (is_web or _is_query(lowered[place:]))
    )
    return next(places, len(url)) if "://" in url else len(url)


def _is_query(rest: str) -> bool:
    """Return whether a mark begins a query: elsewhere than on the web it may belong to a path.

    A query has a name and a value, as in ``?sig=...``; the pattern ``part-?.parquet`` has none.
    """
    name, equals, _ = unquote(rest[1:]).partition("=")
    return bool(equals) and not {"/", "?", "#"} & {*name}


def _without_users(url: str) -> str:
    """Return a URL without the users and passwords of the hosts in it."""
    first, *others = url.split("://")
    return "://".join([first, *map(_without_user, others)])


def _without_user(rest: str) -> str:
    """Return what follows the scheme of a URL without a user and password."""
    try:
        host = urlsplit(f"//{rest}").netloc
    except ValueError:
        # Brackets that are no IPv6 address.
        host = rest.partition("/")[0]
    end = len(host)
    _, _, port = host.rpartition("@")[2].rpartition(":")
    if ":" in host and "@" in rest[end:] and not (port.isdecimal() or port.endswith("]")):
        # The text after the colon is no port: it is a password with a slash.
        end = rest.rfind("@") + 1
    user = rest[:end].lower().replace("%40", "  @").rfind("@") + 1
    return rest[user:]
