"""Planted errors, for the sanitizers to find: built by test_asan_canary.py, part of nothing."""

from libc.stdint cimport int32_t
from libc.stdlib cimport calloc, free


def over_read(int count):
    """Read one element behind an array on the heap."""
    cdef int32_t *array = <int32_t *> calloc(count, sizeof(int32_t))
    cdef int32_t value = array[count]
    free(array)
    return value


def shift(int places):
    """Shift a 32-bit number by more places than it has."""
    cdef int32_t one = 1
    return one << places


def well(int count):
    """The same without an error."""
    cdef int32_t *array = <int32_t *> calloc(count, sizeof(int32_t))
    cdef int32_t value = array[count - 1]
    free(array)
    return value + (1 << 3)
