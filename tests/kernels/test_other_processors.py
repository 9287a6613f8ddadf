"""Compiled kernels on processors that this machine does not have: LLVM translates them for arm64, and for Windows."""

import os
import subprocess
import sys

import pytest

TRANSLATE = """
import re, sys
import llvmlite.binding as llvm
import numpy as np
from numba.core.dispatcher import Dispatcher

import relrank as rr
from relrank.kernels import fused_ranking
from relrank.models import MODELS
from relrank.testing import planted_graph

fused_ranking.HAS_FMA = True  # as on arm64
graph = planted_graph()
for name in ("relational-lightgcn", "gatv2", "hgt"):
    rr.fit(MODELS[name](graph), rr.TrainConfig(epochs=1), lambda: 0.0, seed=0)
from relrank.evaluation import ranking
ranking.FUSED_FROM = 1
model = MODELS["mf"](graph)
model.init_weights(0)
ranking.top_k(model, np.arange(graph.n_users), model.history, 5)

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
targets = {
    "arm64-apple-macosx14.0.0": "apple-m1",
    "aarch64-unknown-linux-gnu": "generic",
    "x86_64-pc-windows-msvc": "x86-64",
}
machines = {t: llvm.Target.from_triple(t).create_target_machine(cpu=cpu) for t, cpu in targets.items()}
for module in [m for name, m in sys.modules.items() if name.startswith("relrank.kernels.")]:
    for kernel in [k for k in vars(module).values() if isinstance(k, Dispatcher) and k.__module__ == module.__name__]:
        for code in [kernel.inspect_llvm(signature) for signature in kernel.signatures]:
            for triple, machine in machines.items():
                text = re.sub("target triple = .*", f'target triple = "{triple}"', code)
                text = re.sub("target datalayout = .*", f'target datalayout = "{machine.target_data}"', text)
                assembly = machine.emit_assembly(llvm.parse_assembly(text))
                print(module.__name__, kernel.__name__, triple, assembly.count("fmla"))
"""


@pytest.mark.slow
def test_kernels_translate_for_arm64_and_windows(tmp_path):
    """LLVM ends the process where a target cannot do what the code says. The code is not optimized for this one."""
    plain = {
        "NUMBA_OPT": "0",
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    command = [sys.executable, "-W", "ignore", "-c", TRANSLATE]
    done = subprocess.run(command, env={**os.environ, **plain}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("relrank.kernels.")]
    fused = {(kernel, triple): int(n) for _, kernel, triple, n in rows}
    assert fused["rank_products", "arm64-apple-macosx14.0.0"] >= 24  # a fused multiply-add for each pair of vectors
    assert {module for module, *_ in rows} >= {
        f"relrank.kernels.{name}" for name in ("fused_ranking", "spmm", "dot_attention", "additive_attention")
    }
