"""Samples of the data, and initial mixtures that are found in them."""
