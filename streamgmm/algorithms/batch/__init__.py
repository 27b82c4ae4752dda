"""Fit data that are there: EM, accelerated EM, and the search on a sample before them."""
