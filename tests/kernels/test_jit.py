"""Compiled kernels are kept for the next process, and compiled anew where there is no folder to keep them in."""

import os
import subprocess
import sys

import pytest

from relrank.kernels.jit import njit

READ_ONLY = """
import numba.core.caching as caching
for one in list(vars(caching).values()):
    if hasattr(one, "_locator_classes"):
        one._locator_classes = []
import warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("default")
    import numpy as np
    from relrank.kernels.counting_sort import stable_argsort
    import relrank.models
assert [str(w.message) for w in said if "NUMBA_CACHE_DIR" in str(w.message)]
print(stable_argsort(np.array([2, 0, 1, 0], np.int32), 3).tolist())
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
from relrank.kernels.csr import Csr
from relrank.kernels import spmm

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
from relrank.kernels import additive_attention as attention

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


PARTS = {
    "inner.py": """
from relrank.kernels.jit import njit
@njit(inline='always')
def step(x):
    return x + {step}
""",
    "sizes.py": "ADDED = {added}\n",
    "outer.py": """
import inner
from relrank.kernels.jit import njit
from sizes import ADDED
@njit()
def twice(x):
    return inner.step(inner.step(x)) + ADDED
if __name__ == "__main__":
    print(twice(1), sum(twice.stats.cache_hits.values()))
""",
}


def test_a_kept_kernel_knows_the_files_and_numbers_that_it_was_made_of(tmp_path):
    """numba looks at the file of the kernel alone: what was inlined from another one stayed what it had been."""

    def run(step, added):
        for name, text in PARTS.items():
            text = text.replace("{step}", str(step)).replace("{added}", str(added))
            if not (tmp_path / name).is_file() or (tmp_path / name).read_text() != text:
                (tmp_path / name).write_text(text)
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
        command = [sys.executable, tmp_path / "outer.py"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert run(10, 0) == ["21", "0"]
    assert run(10, 0) == ["21", "1"]  # kept
    assert run(100, 0) == ["201", "0"]
    assert run(100, 7) == ["208", "0"]
    assert run(100, 7) == ["208", "1"]


TWO_TYPES = """
import sys, time
import numpy as np
from relrank.kernels.jit import njit

@njit()
def twice(x):
    return x[0] * 2

kept = twice._cache._cache_file
read = kept._load_index

def slowly():
    found = read()
    time.sleep(1)
    return found

if len(sys.argv) > 1:
    kept._load_index = slowly
types = sys.argv[1:] or ["float64", "int32", "int8"]
print([str(twice(np.ones(1, one))) for one in types], sum(twice.stats.cache_hits.values()))
"""


def test_processes_that_compile_a_kernel_for_other_types_at_once_keep_what_each_made(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO_TYPES)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    beside = [
        subprocess.Popen([sys.executable, script, one], env=environment) for one in ("float64", "int32", "int8")
    ]
    assert [process.wait(timeout=120) for process in beside] == [0, 0, 0]
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "['2.0', '2', '2'] 3\n", done.stderr


def test_kernels_are_python_where_compilation_is_switched_off():
    code = "from relrank.kernels import counting_sort, dense_solve, spmm; print(1)"
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "1\n", done.stderr
