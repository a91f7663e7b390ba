"""Memory that was freed stays at hand. A step's large tensors would else be given back to the system and asked for
anew, and the page faults cost more than what is reckoned in them: a tuning step takes 1.4 times as long."""

import ctypes

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_LARGEST = 2**31 - 1  # mallopt takes an int


def keep() -> None:
    """From here on, for this process, whose memory no longer shrinks. Where the C library is not glibc, nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST)
        mallopt(_M_TOP_PAD, 64 << 20)
