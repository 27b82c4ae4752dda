"""Kernels for processors with narrower vectors than this one may have, on this one."""

import os
import platform
import subprocess
import sys

import pytest
from llvmlite.binding import get_host_cpu_features

PRODUCTS = "tests/core/test_products.py"
# An E-step takes a minute to compile: one of the two processors shows that it holds together.
E_STEP = "tests/core/test_expectation.py::test_packed_route"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of x86 processors")
@pytest.mark.parametrize(
    ("name", "features", "bits", "tests"),
    [
        ("x86-64", "", 128, [PRODUCTS]),
        ("haswell", "+avx,+avx2,+fma,+bmi,+bmi2", 256, [PRODUCTS, E_STEP]),
    ],
)
def test_narrower_vectors(
    name: str, features: str, bits: int, tests: list[str], tmp_path: object
) -> None:
    if bits == 256 and not get_host_cpu_features().get("avx2"):
        pytest.skip("this processor has no vectors of 256 bits")
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": name,
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    width = "from streamgmm.core.kernels.tiles import TURNED; print(64 * TURNED)"
    found = subprocess.run(
        [sys.executable, "-c", width], env=environment, check=True, capture_output=True, text=True
    )
    assert int(found.stdout) == bits
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
