"""What must be settled before any test module is imported."""

import os

import pytest

# SciPy reads it when it is first imported; scikit-learn's array API checks run only with it.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

pytest.register_assert_rewrite("tests.sources.conformance", "tests.executors.conformance")
