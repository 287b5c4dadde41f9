"""Durations, counted.

Promise: O(1) and no memory beyond the struct, however long a run is. What is out of range is counted in the first or
last bucket. A value of n bits keeps its 8 leading ones.
"""

from libc.stdint cimport int64_t
from libc.string cimport memset

cdef extern from *:
    int leading_zeros "__builtin_clzll" (unsigned long long value) nogil


cdef void histogram_record(Histogram *histogram, int64_t value_ns) noexcept nogil:
    cdef int shift
    cdef int64_t bucket = max(value_ns, <int64_t> 0)
    if bucket >= EXACT:
        shift = 56 - leading_zeros(<unsigned long long> bucket)
        bucket = min(shift * <int64_t> 128 + (bucket >> shift), <int64_t> BUCKETS - 1)
    histogram.counts[bucket] += 1


cdef int64_t largest_in(int64_t bucket) noexcept nogil:
    cdef int shift
    if bucket < EXACT:
        return bucket
    shift = <int> (bucket // 128 - 1)
    return ((bucket - shift * 128 + 1) << shift) - 1


cdef list histogram_pairs(Histogram *histogram):
    cdef int64_t bucket
    return [(largest_in(bucket), histogram.counts[bucket]) for bucket in range(BUCKETS) if histogram.counts[bucket]]


def counted(list values_ns not None):
    cdef Histogram histogram
    memset(&histogram, 0, sizeof(Histogram))
    for value in values_ns:
        histogram_record(&histogram, value)
    return histogram_pairs(&histogram)
