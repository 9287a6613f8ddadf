"""Compiled kernels are kept for the next process; where no folder can keep them, they are compiled anew."""

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


PRODUCTS = """
import numpy as np
from relrank.csr import Csr
from relrank.graph import spmm

one = Csr(np.array([0, 1, 2]), np.array([1, 0], np.int32), np.ones(2, np.float32), 2)
x, out = np.arange(32, dtype=np.float32).reshape(2, 16), np.empty((2, 16), np.float32)
spmm.spmm(one, x, out)
assert (out == x[::-1]).all()
spmm.spmm_rows(one, np.array([0, 1]), x, out, base=np.zeros_like(x))
assert (out == x[::-1]).all()
spmm.spmm_columns(one, np.array([0, 1], np.int32), x, out)
assert (out == x[::-1]).all()
kernels = spmm._product, spmm._product_of_rows, spmm._product_of_columns
"""


ATTENTION = """
import torch
from relrank.graph import additive_attention as attention

left, right = (torch.ones(2, 1, 16, requires_grad=True) for _ in range(2))
indptr, indices = torch.tensor([0, 1, 2]), torch.tensor([1, 0], dtype=torch.int32)
attention.additive_attention(left, right, torch.ones(1, 16), indptr, indices, parallel=False).sum().backward()
assert (left.grad == 1).all()
kernels = attention._forward, attention._destinations, attention._sources
"""


@pytest.mark.parametrize("code", [PRODUCTS, ATTENTION], ids=["products", "attention"])
def test_kernels_that_one_process_compiled_are_found_by_the_next(code):
    """A kernel that closes over its width has another key in each process, and costs each a second."""
    exec(code, {})
    code += "for kernel in kernels:\n    print(*(sum(n.values()) for n in kernel.stats[1:]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["1 0"] * 3  # found, compiled
