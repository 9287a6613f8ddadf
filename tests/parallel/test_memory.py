"""What memory is left, from made-up files of the system, and errors that say there was none."""

from pathlib import Path

import numpy as np
import pytest
import torch

from relrank.errors import InputError
from relrank.parallel.memory import VARIABLE, available_memory, is_out_of_memory

GB = 1 << 30


@pytest.fixture(autouse=True)
def _no_override(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n"}


def test_without_control_groups_it_is_what_the_kernel_says(tmp_path):
    assert available_memory(system(tmp_path, MEMINFO)) == 8 * GB


def test_version_2_the_tightest_group_counts_and_page_cache_can_go(tmp_path):
    group = "sys/fs/cgroup/work/job"
    files = {
        **MEMINFO, "proc/self/cgroup": "0::/work/job\n",
        f"{group}/memory.max": "max\n", f"{group}/memory.current": f"{GB}\n",
        "sys/fs/cgroup/work/memory.max": f"{4 * GB}\n", "sys/fs/cgroup/work/memory.current": f"{3 * GB}\n",
        "sys/fs/cgroup/work/memory.stat": f"anon 5\ninactive_file {GB // 2}\n",
    }  # fmt: skip
    assert available_memory(system(tmp_path, files)) == GB + GB // 2


def test_version_2_in_a_container_the_mount_itself_is_the_group(tmp_path):
    files = {
        **MEMINFO, "proc/self/cgroup": "0::/docker/0123\n",
        "sys/fs/cgroup/memory.max": f"{2 * GB}\n", "sys/fs/cgroup/memory.current": f"{GB}\n",
    }  # fmt: skip
    assert available_memory(system(tmp_path, files)) == GB


def test_version_1(tmp_path):
    group = "sys/fs/cgroup/memory/job"
    files = {
        **MEMINFO, "proc/self/cgroup": "5:cpu,cpuacct:/job\n4:memory:/job\n",
        f"{group}/memory.limit_in_bytes": f"{6 * GB}\n", f"{group}/memory.usage_in_bytes": f"{5 * GB}\n",
        f"{group}/memory.stat": f"total_inactive_file {2 * GB}\n",
        # version 1's word for no limit
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{9 * GB}\n",
    }  # fmt: skip
    assert available_memory(system(tmp_path, files)) == 3 * GB


def test_a_group_above_its_limit_has_nothing_left(tmp_path):
    files = {
        **MEMINFO, "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": f"{GB}\n", "sys/fs/cgroup/memory.current": f"{2 * GB}\n",
    }  # fmt: skip
    assert available_memory(system(tmp_path, files)) == 0


def test_the_variable_comes_first_and_has_to_be_a_number(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "0.5")
    assert available_memory(system(tmp_path, MEMINFO)) == GB // 2
    for value in ("", "much", "0", "-1", "nan", "inf"):
        monkeypatch.setenv(VARIABLE, value)
        with pytest.raises(InputError, match=VARIABLE):
            available_memory()


def test_here_there_is_some():
    assert 0 < available_memory() < 1 << 50


def test_errors_of_libraries_are_known():
    for make in (lambda: np.empty(1 << 60, np.uint8), lambda: torch.empty(1 << 58)):
        with pytest.raises((MemoryError, RuntimeError)) as said:
            make()
        assert is_out_of_memory(said.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))
