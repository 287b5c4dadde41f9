# What is compiled of headers.py: what is asked of each request is a function of C's, the code is the Python there.

from fairlead.wire.headers cimport Headers

cpdef bytes for_node(Headers headers, str request_id)
