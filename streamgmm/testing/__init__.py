"""Tests that sources and executors outside this package can inherit; they need pytest.

A test module of a source makes a :class:`SourceCase` in a fixture ``case`` of a subclass of
:class:`SourceConformance`. A test module of an executor makes the executor in a fixture
``executor`` of a subclass of :class:`ExecutorConformance`. To let pytest explain failures, call
``pytest.register_assert_rewrite("streamgmm.testing")`` in ``conftest.py``.
"""

from streamgmm.testing.chunked import ChunkedSource
from streamgmm.testing.executors import ExecutorConformance
from streamgmm.testing.sources import SourceCase, SourceConformance, table

__all__ = ["ChunkedSource", "ExecutorConformance", "SourceCase", "SourceConformance", "table"]
