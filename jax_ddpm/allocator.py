"""What glibc is told about memory, for the sake of XLA's CPU, which asks for it thousands of times each time a program runs."""

import ctypes
import mmap
import os
import sys
from typing import Any

import jax

# The options of glibc's mallopt, by their numbers in malloc.h.
KEEP_FREED = {
    -8: 1,  # M_ARENA_MAX: all threads share the heap that grows by brk; others map each large block anew
    -4: 0,  # M_MMAP_MAX: no block is mapped apart from the heap
    -1: -1,  # M_TRIM_THRESHOLD: what is free at its end stays
}
COMPILED = "/jax/core/compile/backend_compile_duration"
"""The event by which JAX says that a program was compiled."""
LONG = 1.0  # seconds of compiling from which on holes are retired
LEAST = 1024  # bytes: smaller ones glibc keeps by their size, and finds at once
SHRINK = 0.92  # from one size that is asked for to the next
DONT_NEED = 4  # MADV_DONTNEED of Linux


class _MallocInfo(ctypes.Structure):
    """mallinfo2's answer, see malloc.h: `fordblks` is what is free, `keepcost` what of it lies at the end of the heap."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]
    ]


def keep_freed_memory() -> bool:
    """Has glibc keep what is freed for whoever asks next; whether it does, for elsewhere there is another C library.

    XLA's CPU asks for all temporary memory of a program, hundreds of megabytes, each time that it runs. glibc would get it from
    the system and give it back each time, and the system clears it page by page: a sixth of a small network's train step.
    Must come before there are threads that ask for memory. Whoever tells glibc something else by its environment is left to it.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all(mallopt(option, value) for option, value in KEEP_FREED.items())


def retire_holes_after_compiling() -> None:
    """From now on `retire_holes` follows whenever a program was compiled for long."""
    jax.monitoring.register_event_duration_secs_listener(_note)


def _note(event: str, duration_secs: float, **_: Any) -> None:
    if event == COMPILED and duration_secs > LONG and jax.default_backend() == "cpu":
        retire_holes()


def retire_holes() -> int:
    """Has glibc forget the holes of LEAST bytes or more in its heap; their bytes together, 0 where there is another C library.

    Compiling leaves tens of thousands, of as many sizes, between what stays. glibc looks through them, and has all threads wait
    for it, whenever it is asked for a larger block: a fourth of a small network's train step. They are taken, each in turn, and
    never freed; the system gets their whole pages back, and what is less than a page is lost to the process.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return 0
    libc.mallinfo2.restype, libc.sbrk.restype, libc.malloc.restype = _MallocInfo, ctypes.c_void_p, ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    heap_end, info = libc.sbrk(0), libc.mallinfo2()  # in this order: what others ask for meanwhile is taken for no hole
    end = heap_end - info.keepcost  # behind the last hole
    retired, size = 0, info.fordblks - info.keepcost
    while size >= LEAST:
        block = libc.malloc(size)
        if block is None or block >= end:  # of none of the holes, which are all smaller now
            libc.free(ctypes.c_void_p(block))
            size = int(size * SHRINK)
            continue
        _give_back(libc, block, size)
        retired += size
    return retired


def _give_back(libc: ctypes.CDLL, block: int, size: int) -> None:
    """The whole pages of a block to the system."""
    first, last = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE, (block + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if first < last:
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), DONT_NEED)
