"""Trying out what may hang or crash, in a process of its own: neither can be caught where it happens."""

import faulthandler
import os
import signal
import warnings
from collections.abc import Callable


def ends(action: Callable[[], object], seconds: int) -> bool:
    """Whether an action comes to its end, with or without an exception, in a copy of this process.

    Parameters
    ----------
    action
        What to try; nothing of what it does is kept.
    seconds
        Of a processor's time that it may take.

    Returns
    -------
    False where it took longer or crashed. True where the system knows no such copies, or killed this one, for memory
    perhaps, which says nothing of the action.
    """
    try:
        import resource
    except ImportError:
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads do not come along, and none is needed
        copy = os.fork()
    if copy:
        status = os.waitpid(copy, 0)[1]
        return os.WIFEXITED(status) or os.WTERMSIG(status) == signal.SIGKILL
    try:
        faulthandler.disable()
        for kind, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        action()
    except BaseException:  # noqa: BLE001 - it will come again where it can be told
        pass
    finally:
        os._exit(0)
