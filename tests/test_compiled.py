"""Kernels where numba finds no folder to keep them in."""

import subprocess
import sys

import pytest

from relrank.compiled import njit

READ_ONLY = """
import numba.core.caching as caching
for one in list(vars(caching).values()):
    if hasattr(one, "_locator_classes"):
        one._locator_classes = []
import warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("default")
    import numpy as np
    from relrank.counting import order_of
    import relrank.models
assert [str(w.message) for w in said if "NUMBA_CACHE_DIR" in str(w.message)]
print(order_of(np.array([2, 0, 1, 0], np.int32), 3).tolist())
"""


def test_kernels_run_where_nothing_can_be_written():
    """A read-only file system made the import of every module with a kernel fail."""
    done = subprocess.run([sys.executable, "-c", READ_ONLY], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[1, 3, 2, 0]"


def test_other_errors_of_the_compiler_stay():
    with pytest.raises(TypeError):
        njit(nonsense=True)(abs)
