"""The keys of a JSON object as they were written; see jsonscan.pyx."""

cpdef Py_ssize_t count_keys(bytes body) except -1
