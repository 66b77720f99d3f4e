"""Keeps what is in this process's memory, keys of states for a moment among it, out of core dumps and other hands."""

import ctypes
import os
import resource
from typing import Final

__all__ = ["keep_secrets"]

PR_SET_DUMPABLE: Final = 4  # include/uapi/linux/prctl.h


def keep_secrets() -> None:
    """From now on no core of this process is written, and only root may look into it. Raises OSError.

    The limit alone would not do: the kernel does not look at it where core_pattern names a program (man 5 core).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "PR_SET_DUMPABLE")
