"""A pass over the data: the reader, usable rows, partial passes, memory that it takes."""
