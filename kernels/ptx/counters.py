"""What a launch executed and moved. benchmarks/gpu_static.py computes from it what that would take."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Counters:
    """Executed instructions by class, by thread and by warp, and the traffic of the memories."""

    threads: Counter = field(default_factory=Counter)  # class -> instructions executed by threads
    warps: int = 0  # instructions issued by warps, whatever the number of their threads
    partial: int = 0  # of these, with some of the warp's living threads elsewhere: divergence
    approx: Counter = field(default_factory=Counter)  # approximate instructions executed by threads, by name
    approx_tolerance: float = 0.0  # the stated errors of all those of one thread, summed: the most of any thread
    loaded: int = 0  # bytes of global memory that instructions asked for
    stored: int = 0
    load_sectors: int = 0  # 32-byte sectors that warps touched, each once an instruction
    store_sectors: int = 0
    footprint: int = 0  # bytes of the sectors that the launch read, and of those it wrote, each once
    shared_accesses: int = 0  # warps' accesses to shared memory, in the passes that their width needs anyway
    bank_conflicts: int = 0  # further passes, for threads that want different words of one bank

    @property
    def instructions(self) -> int:
        """Instructions executed, summed over threads."""
        return sum(self.threads.values())

    def an_element(self, elements: int) -> dict[str, float]:
        """The counts divided by the number of elements worked on."""
        counts = {kind: count / elements for kind, count in sorted(self.threads.items())}
        return {
            "instructions": self.instructions / elements,
            **counts,
            "bytes": (self.loaded + self.stored) / elements,
            "footprint": self.footprint / elements,
            "sector_bytes": 32 * (self.load_sectors + self.store_sectors) / elements,
            "bank_conflicts": self.bank_conflicts / elements,
            "divergent_share": self.partial / max(self.warps, 1),
        }

    def global_access(self, addresses: np.ndarray, warp: np.ndarray, size: int, store: bool) -> None:
        sectors = len(np.unique(addresses.astype(np.int64) // 32 | warp << 43))  # addresses have 47 bits
        if store:
            self.stored += size * len(addresses)
            self.store_sectors += sectors
        else:
            self.loaded += size * len(addresses)
            self.load_sectors += sectors

    def shared_access(self, addresses: np.ndarray, warp: np.ndarray, lane: np.ndarray, size: int) -> None:
        """32 banks of 4 bytes; 8 bytes go in two passes of half warps, 16 in four of quarters."""
        passes = max(size // 4, 1)
        group = warp * passes + lane * passes // 32
        word = (addresses // np.uint64(4)).astype(np.int64)[:, None] + np.arange(passes)
        touched = np.unique((group[:, None] << 32 | word).ravel())  # one word is one access, for all who want it
        banks, counts = np.unique((touched >> 32) * 32 + touched % 32, return_counts=True)
        groups, first = np.unique(banks // 32, return_index=True)
        self.shared_accesses += len(groups)
        self.bank_conflicts += int((np.maximum.reduceat(counts, first) - 1).sum())
