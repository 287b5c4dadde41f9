"""Durations, counted: 128 buckets for every doubling, so a bucket is less than 1 % wide; bodies in histogram.pyx."""

from libc.stdint cimport int64_t

cdef enum:
    EXACT = 256            # below it, a bucket for every nanosecond
    BUCKETS = 256 + 35 * 128  # up to 2^43 ns, more than two hours

cdef struct Histogram:
    int64_t counts[BUCKETS]

cdef void histogram_record(Histogram *histogram, int64_t value_ns) noexcept nogil

# [(largest value of the bucket in ns, count)], smallest first, without the empty ones.
cdef list histogram_pairs(Histogram *histogram)
