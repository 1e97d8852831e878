"""On how many cores a step works."""

import os


def n_workers() -> int:
    """Cores this process may use: what ``OMP_NUM_THREADS`` says, or those the system grants."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
