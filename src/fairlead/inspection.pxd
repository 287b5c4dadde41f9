# What is compiled of inspection.py: its inner functions are C's, the code is the Python there.

cdef _parse_object(bytes body)
cdef _model(value)
cdef _stream(value)
cdef _integer(dict fields, str name, long low, long high, str limit=*)
cdef _width(str path, dict fields, long width_max)
cdef _prompt_count(prompt)
