# What is compiled of strict.py: what is asked of each request is a function of C's, the code is the Python there.

from fairlead.wire.headers cimport Headers

cpdef str one_header(Headers headers, str key, str name)
