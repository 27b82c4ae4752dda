"""Limits on values and on errors that all E-steps share."""

#: Rows that hold a larger value are skipped, because sums of their squares may overflow.
LARGEST_VALUE = 1e130
#: Bound on the error of a log-density, in nats, above which a more accurate form is used.
DENSITY_TOLERANCE = 1e-8
#: The same bound if the user asks for float32.
SINGLE_TOLERANCE = 1e-3
