"""Numbers and texts as people read them."""

import math


def format_bytes(n_bytes: float) -> str:
    """Return a size with a binary unit: "1.25 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n_bytes) < 1024:
            return f"{n_bytes:.4g} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.4g} TiB"


def with_prefix(value: float) -> str:
    """Return a number with an SI prefix: "3.21 M"."""
    prefixes = ("", "k", "M", "G", "T", "P")
    power = min(int(math.log10(max(value, 1.0)) // 3), len(prefixes) - 1)
    return f"{value / 1000**power:.3g} {prefixes[power]}"


def printable(text: str) -> str:
    """Return a text with its control characters escaped, so that it cannot steer a terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
