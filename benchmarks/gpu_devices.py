"""What is known of GPUs without one: what they can issue and move a second, and the times computed from that."""

from __future__ import annotations

# thread instructions that can be issued a second (multiprocessors x 4 schedulers x 32 x clock), bytes a second: nominal
DEVICES = {
    "A100": (108 * 128 * 1.41e9, 2.0e12),
    "H100": (132 * 128 * 1.7e9, 3.35e12),
    "B200": (148 * 128 * 1.85e9, 8.0e12),
}


def computed_ps(device: str, instructions: float, moved: float) -> float:
    """ps an element: the larger of instructions over issue rate and bytes over bandwidth. COMPUTED, not measured."""
    rate, bandwidth = DEVICES[device]
    return 1e12 * max(instructions / rate, moved / bandwidth)
