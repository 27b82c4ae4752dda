"""The representation of a source in a session and in a notebook."""

import html
from typing import TYPE_CHECKING, cast

from streamgmm.protocols import data_bytes
from streamgmm.quantities import format_bytes

if TYPE_CHECKING:
    from streamgmm.protocols import Source


class Described:
    """Show the size, the type and the layout of a source; nothing of the data is read."""

    def __repr__(self) -> str:
        facts = self._facts()
        size = f"{facts['rows']} rows × {facts['columns']} columns"
        others = (facts[key] for key in ("type", "chunks", "size", "missing values"))
        return f"<{type(self).__name__} {facts['data']}: {', '.join([size, *others])}>"

    def _repr_html_(self) -> str:
        lines = (
            f"<tr><th>{key}</th><td>{html.escape(value)}</td></tr>"
            for key, value in self._facts().items()
        )
        return f"<table><caption>{type(self).__name__}</caption>{''.join(lines)}</table>"

    def _facts(self) -> dict[str, str]:
        source = cast("Source", self)
        n_chunks = len(source.boundaries) - 1
        facts = {
            "data": source.name,
            "rows": f"{source.n_rows:,}",
            "columns": f"{source.n_features:,}",
            "type": str(source.dtype),
            "chunks": f"{n_chunks:,} chunk{'s' * (n_chunks != 1)}",
            "size": format_bytes(data_bytes(source)),
            "missing values": f"missing={source.missing!r}",
        }
        if source.feature_names is not None:
            facts["column names"] = ", ".join(source.feature_names)
        if source.has_weights:
            facts["weights"] = "each row has a weight"
        return facts
