"""What the doctor says of cores that are left unused."""

import os

import pytest
import torch

from fastscore.experiment import doctor, processors


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of 8 cores as told: its files, this process's affinity, torch's threads and the environment."""

    def make(*, threads=8, affinity=range(8), files=None, siblings=1, **environment):
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(affinity), raising=False)
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        monkeypatch.setattr(processors, "_ROOT", tmp_path)
        pairs = {
            f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list": ",".join(
                str(j) for j in range(8) if j % (8 // siblings) == i % (8 // siblings)
            )
            for i in range(8)
        }
        for path, text in {**pairs, **(files or {})}.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text + "\n")
        return processors.unused()

    return make


V2 = {
    "proc/self/cgroup": "0::/a/b",
    "sys/fs/cgroup/a/cpu.max": "250000 100000",
    "sys/fs/cgroup/a/b/cpu.max": "max 100000",
}
V1 = {
    "proc/self/cgroup": "3:cpuset:/\n2:cpu,cpuacct:/host/path\n0::/",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
}
NO_QUOTA = {**V1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"}


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"OMP_NUM_THREADS": "8"},
        {"files": NO_QUOTA},
        {"files": {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}},
        {"siblings": 2, "threads": 4},  # torch runs one thread on each core, and that is all of them
    ],
)
def test_nothing_is_said_where_every_core_is_used(machine, told):
    assert machine(**told) == []


@pytest.mark.parametrize(
    "told, said",
    [
        (
            {"threads": 2, "OMP_NUM_THREADS": "2,1"},
            ["unused: 6 of 8 cores, as torch runs 2 threads: unset OMP_NUM_THREADS or set it to 8"],
        ),
        (
            {"threads": 1, "OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "1"},
            ["unused: 7 of 8 cores, as torch runs 1 thread: unset MKL_NUM_THREADS or set it to 8"],
        ),
        ({"threads": 4}, ["unused: 4 of 8 cores, as torch runs 4 threads: call torch.set_num_threads(8)"]),
        (
            {"threads": 2, "affinity": (0, 3)},
            [
                "unused: 6 of 8 cores, closed to this process by its affinity: start it with `taskset -c 0-7`, or ask "
                "the container or the batch system for more cores"
            ],
        ),
        (
            {"files": V2},
            [
                "unused: 5.5 of 8 cores, beyond the container's quota of 2.5: raise that (`docker run --cpus=8`, or the "
                "pod's CPU limit); until then set OMP_NUM_THREADS to 2, torch runs 8"
            ],
        ),
        (
            {"files": V1, "threads": 1, "OMP_NUM_THREADS": "1"},
            [
                "unused: 6 of 8 cores, beyond the container's quota of 2: raise that (`docker run --cpus=8`, or the "
                "pod's CPU limit)",
                "unused: 1 of 2 cores, as torch runs 1 thread: unset OMP_NUM_THREADS or set it to 2",
            ],
        ),
        (
            {"siblings": 2, "threads": 2, "affinity": (0, 1, 4, 5)},
            [
                "unused: 2 of 4 cores, closed to this process by its affinity: start it with `taskset -c 0-7`, or ask "
                "the container or the batch system for more cores"
            ],
        ),
    ],
)
def test_what_is_unused_and_the_cure(machine, told, said):
    assert machine(**told) == said
    report = doctor.report()
    assert all(f"\n     {line}\n" in report for line in said)
    assert f"\nCPU: {8 // told.get('siblings', 1)} cores, " in report
