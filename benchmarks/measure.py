"""Run one command and say what it cost: ``measure.py TIMEOUT_S LOG COMMAND...`` prints one JSON object.

A process of its own, small and without imports beyond the standard library: a child's peak memory as the kernel counts
it starts from the size of the process it was started from.
"""

import json
import os
import signal
import subprocess
import sys
import time


def main() -> None:
    timeout, log, command = float(sys.argv[1]), sys.argv[2], sys.argv[3:]
    start = time.perf_counter()
    with open(log, "ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    timed_out = False

    def stop(*_: object) -> None:
        nonlocal timed_out
        timed_out = True
        os.killpg(process.pid, signal.SIGKILL)

    signal.signal(signal.SIGALRM, stop)
    for interrupt in (signal.SIGINT, signal.SIGTERM):
        signal.signal(interrupt, lambda *_: (stop(), sys.exit(1)))
    signal.setitimer(signal.ITIMER_REAL, timeout)
    _, status, usage = os.wait4(process.pid, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    kilobyte = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss in bytes
    cost = {
        "wall_s": time.perf_counter() - start,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * kilobyte / 1e6,
        "exit_code": os.waitstatus_to_exitcode(status),
        "timed_out": timed_out,
    }
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
