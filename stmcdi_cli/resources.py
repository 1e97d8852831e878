"""Memory and cores that a step may use: those of ``--memory-limit`` and ``OMP_NUM_THREADS``, or of the system."""

import os
import re
import sys
from math import ceil
from pathlib import Path

from stmcdi_cli.errors import InputError, OptionError

BYTES_PER_ENTRY = 160
"""Bytes that all arrays of a step take, at most, for each entry of the rows in memory."""
RESERVE = 3 * 2**25
"""Bytes for the caches of HDF5 and of the allocator."""
FEWEST_ENTRIES = 2**17
"""Least entries that a step reads at a time: fewer would make it very slow."""
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

_limit: int | None = None
_entries: int | None = None


def parse(text: str) -> int:
    """Read a size such as ``4G``, ``500M`` or a number of bytes.

    Raises
    ------
    OptionError
        It is not a size above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    size = int(float(found[1]) * UNITS[found[2].upper()]) if found else 0
    if size < 1:
        raise OptionError(f"expected `memory_limit` as a size such as 4G or 500M, found `{text}`")
    return size


def set_limit(size: int | None) -> None:
    """Limit this process to so many bytes; None: to half of what the system grants."""
    global _limit, _entries
    _limit, _entries = size, None


def limit() -> int:
    """Give the bytes that this process may hold: the limit set, or half of what the system grants."""
    return granted() // 2 if _limit is None else _limit


def granted() -> int:
    """Give the bytes that the container, the batch system or the machine leaves to this process."""
    sizes = [limit for limit in map(_number, _limit_files()) if limit is not None]
    available = re.search(r"MemAvailable:\s+(\d+) kB", _text(Path("/proc/meminfo")))
    if available:
        sizes.append(int(available[1]) * 1024 + resident())
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(sizes, default=8 * 2**30)


def resident() -> int:
    """Give the bytes that this process holds now; the peak where the system reports only that."""
    pages = _text(Path("/proc/self/statm")).split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else peak()


def peak() -> int:
    """Give the most bytes that this process has held; 0 on Windows, where Python cannot ask."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def room() -> int:
    """Give the bytes that are left below the limit."""
    return limit() - resident()


def entries() -> int:
    """Give how many entries of matrices fit into memory at a time, as computed at the first call."""
    global _entries
    if _entries is None:
        _entries = max(FEWEST_ENTRIES, (room() - RESERVE) // BYTES_PER_ENTRY)
    return _entries


def check(what: str) -> None:
    """Compute `entries` again, now that ``what`` is in memory; refuse a limit that leaves too few.

    Raises
    ------
    OptionError
        The limit is too low.
    """
    global _entries
    _entries = None
    least = resident() + RESERVE + FEWEST_ENTRIES * BYTES_PER_ENTRY
    if _limit is not None and _limit < least:
        raise OptionError(
            f"expected `memory_limit` of at least {least / 2**20:.0f}M for {what}, found `{_limit / 2**20:.0f}M`; "
            "give more"
        )


def check_fits(what: str, size: int) -> None:
    """Refuse to read data that do not fit into memory.

    Raises
    ------
    InputError
        They take more bytes than the system grants.
    """
    if size > granted():
        raise InputError(
            f"{what}: takes {size / 2**30:.1f} GiB of memory, found {granted() / 2**30:.1f} GiB; ask for more memory"
        )


def _limit_files() -> list[Path]:
    """Give the files with the memory limits of this process's control groups and of those above them."""
    return [
        folder / ("memory.max" if version == 2 else "memory.limit_in_bytes") for version, folder in _groups("memory")
    ]


def _groups(controller: str) -> list[tuple[int, Path]]:
    """Give the folders of this process's control groups and of those above them, each with its version, 1 or 2."""
    root, folders = Path("/sys/fs/cgroup"), []
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            version, top = (2, root) if controllers == "" else (1, root / controller)
            group = top / name.lstrip("/")
            found = [folder for folder in (group, *group.parents) if folder.is_relative_to(top)]
            folders += [(version, folder) for folder in (*found, top)]
    return folders


def _number(file: Path) -> int | None:
    """Give the limit in a file; None if it has none ("max", or a number that no machine reaches)."""
    text = _text(file).strip()
    return int(text) if text.isdigit() and int(text) < 2**60 else None


def _text(file: Path) -> str:
    try:
        return file.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def n_workers() -> int:
    """Give the cores that this process may use: ``OMP_NUM_THREADS``, or those the system grants.

    The system limits them by a set of cores, or by a share of their time (the CPU quota of a control group, as
    ``docker run --cpus`` and Kubernetes set it): 1.5 cores are two threads.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([cores, *(max(1, ceil(quota)) for quota in map(_quota, _groups("cpu")) if quota is not None)])


def _quota(group: tuple[int, Path]) -> float | None:
    """Give the cores' worth of time that a control group may use; None if it has no limit."""
    version, folder = group
    if version == 2:
        numbers = _text(folder / "cpu.max").split()
    else:
        numbers = [_text(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    limited = len(numbers) == 2 and all(number.isdigit() and int(number) for number in numbers)
    return int(numbers[0]) / int(numbers[1]) if limited else None
