"""Memory of the process, for the command line."""

from __future__ import annotations


def steady_memory() -> None:
    """Keep freed memory in the process: passes allocate and free large tensors, and giving pages back each time costs a
    sixth of the run.
    """
    import ctypes

    try:
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((-4, 0), (-1, 2**31 - 1)):  # M_MMAP_MAX, M_TRIM_THRESHOLD
            libc.mallopt(option, value)
    except (OSError, AttributeError):
        pass  # another C library: nothing to tune
