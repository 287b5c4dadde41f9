# records.py is on the way of each request, so it is compiled, as it is.
