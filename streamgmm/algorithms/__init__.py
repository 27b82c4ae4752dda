"""Algorithms on the data: surveys, starts, iterations.

Functions over the protocols, with their state passed in and their result returned. May
import ``streamgmm.protocols`` and below; never a backend, a source or an executor.
"""
