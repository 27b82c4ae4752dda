"""Kinds of data behind one protocol: each says how large it is and reads a chunk of rows.

One small file for each kind; it may import ``streamgmm.protocols`` and below, and its own
backend, which no other file of this package may. ``open`` chooses among them without importing what
is not used; ``layout`` is what they share: where chunks begin, and what types are data.
"""
