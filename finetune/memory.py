"""Memory that was freed stays at hand. A step's large tensors would else be given back to the system and asked for
anew, and the page faults cost more than what is reckoned in them: a tuning step takes 1.4 times as long."""

import ctypes

EVERY = 50  # steps between two times of giving back: what is given back must be asked for anew
# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_LARGEST = 2**31 - 1  # mallopt takes an int
_C = ctypes.CDLL(None)


def keep() -> None:
    """For this whole process, to its end: it sets how malloc works. Where the C library is not glibc, nothing."""
    if hasattr(_C, "mallopt"):
        _C.mallopt(_M_MMAP_MAX, 0)
        _C.mallopt(_M_TRIM_THRESHOLD, _LARGEST)
        _C.mallopt(_M_TOP_PAD, 64 << 20)


def give_back() -> None:
    """All that is free now, once: what is freed later is kept again. To be called now and then, for tensors of ever
    other sizes leave gaps that fit no other, and a long run would fill the machine with them."""
    if hasattr(_C, "malloc_trim"):
        _C.malloc_trim(0)
