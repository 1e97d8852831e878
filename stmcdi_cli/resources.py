"""How much memory a step may take: what ``--memory-limit`` says, or what the system grants."""

import os
import re
import sys
from pathlib import Path

from stmcdi_cli.errors import InputError, OptionError

BYTES_PER_ENTRY = 160
"""What a step needs at most, in all its arrays, for each entry of the rows it has in hand."""
RESERVE = 2**26
"""Bytes for what HDF5 and the allocator keep at hand."""
FEWEST_ENTRIES = 2**17
"""Entries below which a step would not get on."""
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

_limit: int | None = None
_entries: int | None = None


def parse(text: str) -> int:
    """Read a size such as ``4G``, ``500M`` or a number of bytes.

    Raises
    ------
    OptionError
        It is no size above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    size = int(float(found[1]) * UNITS[found[2].upper()]) if found else 0
    if size < 1:
        raise OptionError(f"expected `memory_limit` as a size such as 4G or 500M, found `{text}`")
    return size


def set_limit(size: int | None) -> None:
    """Limit this process to so many bytes; None: what the system grants."""
    global _limit, _entries
    _limit, _entries = size, None


def limit() -> int:
    """Bytes that this process may hold: the limit set, or half of what the system grants."""
    return granted() // 2 if _limit is None else _limit


def granted() -> int:
    """Bytes that the container, the batch system or the machine leaves to this process."""
    sizes = [limit for limit in map(_number, _limit_files()) if limit is not None]
    available = re.search(r"MemAvailable:\s+(\d+) kB", _text(Path("/proc/meminfo")))
    if available:
        sizes.append(int(available[1]) * 1024 + resident())
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(sizes, default=8 * 2**30)


def resident() -> int:
    """Bytes that this process holds now; where the system tells only the peak, the peak."""
    pages = _text(Path("/proc/self/statm")).split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else peak()


def peak() -> int:
    """Most bytes that this process has held; 0 on Windows, which does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def room() -> int:
    """Bytes below the limit."""
    return limit() - resident()


def entries() -> int:
    """Entries of matrices that there is room for at a time, as found when the process first asks."""
    global _entries
    if _entries is None:
        _entries = max(FEWEST_ENTRIES, (room() - RESERVE) // BYTES_PER_ENTRY)
    return _entries


def check(what: str) -> None:
    """Find out again what there is room for, now that ``what`` is in memory; refuse a limit that leaves none.

    Raises
    ------
    OptionError
        There is none.
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
    """Refuse to read what cannot fit.

    Raises
    ------
    InputError
        It takes more bytes than the system grants.
    """
    if size > granted():
        raise InputError(
            f"{what}: takes {size / 2**30:.1f} GiB of memory, found {granted() / 2**30:.1f} GiB; ask for more memory"
        )


def _limit_files() -> list[Path]:
    """Files in which a control group, of either version, or one above it may name its limit."""
    root, files = Path("/sys/fs/cgroup"), []
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            top, file = (root, "memory.max") if controllers == "" else (root / "memory", "memory.limit_in_bytes")
            group = top / name.lstrip("/")
            files += [folder / file for folder in (group, *group.parents) if folder.is_relative_to(top)]
            files.append(top / file)
    return files


def _number(file: Path) -> int | None:
    """Limit that a file names; None where it names none ("max", or a number no machine has)."""
    text = _text(file).strip()
    return int(text) if text.isdigit() and int(text) < 2**60 else None


def _text(file: Path) -> str:
    try:
        return file.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def n_workers() -> int:
    """Cores this process may use: what ``OMP_NUM_THREADS`` says, or those the system grants."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
