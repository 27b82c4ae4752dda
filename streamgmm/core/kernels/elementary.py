"""Exponential and logarithm that LLVM can vectorise.

Numba from PyPI has no vector mathematics library, so ``np.exp`` in a loop is one call
per element. These functions are straight-line polynomials instead.
"""

import math

import numpy as np

from streamgmm.core.kernels.compilation import ordered_piece

# ln 2 in two parts: the first has few enough bits that k · LN2_HIGH is exact for |k| < 2**11
# (Cody & Waite, Software Manual for the Elementary Functions, 1980, chapter 6).
_LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_LOG2_E = 1.0 / math.log(2.0)
# Adding 1.5 · 2**52 leaves the nearest integer in the low bits of the sum.
_ROUND = 1.5 * 2.0**52
# Below ln(smallest normal number) the result is exactly 0.
SMALLEST_EXPONENT = -708.0
_SQRT_HALF_BITS = np.float64(math.sqrt(0.5)).view(np.int64)


@ordered_piece
def exponential(x):
    """Return ``exp(x)`` for x ≤ 0, to two units in the last place.

    The result is exactly 0 for x < -708 and for NaN.

    x = k ln 2 + r with |r| ≤ ½ ln 2; 1 + r + r² q(r), where q meets (exp(r) - 1 - r) / r² in
    the ten Chebyshev points of that interval (relative error below 2e-17); then times 2**k, by
    adding k to the exponent field.
    """
    inside = x >= SMALLEST_EXPONENT
    clipped = x if inside else 0.0
    shifted = clipped * _LOG2_E + _ROUND
    k = shifted - _ROUND
    r = (clipped - k * _LN2_HIGH) - k * _LN2_LOW
    p = 2.5100375832561234e-08
    p = p * r + 2.7620075879983367e-07
    p = p * r + 2.7557268480310024e-06
    p = p * r + 2.4801521322368692e-05
    p = p * r + 0.00019841269863040545
    p = p * r + 0.0013888888917196719
    p = p * r + 0.008333333333330065
    p = p * r + 0.041666666666624164
    p = p * r + 0.16666666666666669
    p = p * r + 0.5000000000000001
    p = p * r + 1.0
    p = p * r + 1.0
    bits = np.float64(p).view(np.int64) + (np.float64(shifted).view(np.int64) << 52)
    return np.int64(bits).view(np.float64) if inside else 0.0


# The same in float32: ln 2 with 9 bits in its first part, and 2**23 for 2**52.
_SMALLEST_EXPONENT_SINGLE = np.float32(-87.0)
_LOG2_E_SINGLE, _ROUND_SINGLE = np.float32(_LOG2_E), np.float32(1.5 * 2.0**23)
_LN2_HIGH_SINGLE, _LN2_LOW_SINGLE = np.float32(0.693359375), np.float32(-2.1219444005469057e-4)
_NOUGHT, _UNIT, _HALF = np.float32(0.0), np.float32(1.0), np.float32(0.5)
_CUBIC, _QUARTIC = np.float32(0.1666657702559799), np.float32(0.041666554662050534)
_QUINTIC, _SEXTIC = np.float32(0.008363173074513711), np.float32(0.001392617611993558)


@ordered_piece
def exponential_single(x):
    """Return ``exp(x)`` of float32 x ≤ 0, to two units in the last place.

    The result is exactly 0 for x < -87 and for NaN. The method is that of :func:`exponential`, with
    five Chebyshev points (relative error below 1.1e-8).
    """
    inside = x >= _SMALLEST_EXPONENT_SINGLE
    clipped = x if inside else _NOUGHT
    shifted = clipped * _LOG2_E_SINGLE + _ROUND_SINGLE
    k = shifted - _ROUND_SINGLE
    r = (clipped - k * _LN2_HIGH_SINGLE) - k * _LN2_LOW_SINGLE
    p = _SEXTIC
    p = p * r + _QUINTIC
    p = p * r + _QUARTIC
    p = p * r + _CUBIC
    p = p * r + _HALF
    p = p * r + _UNIT
    p = p * r + _UNIT
    bits = np.int32(np.float32(p).view(np.int32) + (np.float32(shifted).view(np.int32) << 23))
    return np.int32(bits).view(np.float32) if inside else _NOUGHT


@ordered_piece
def logarithm(x):
    """Return ``log(x)`` for normal finite x ≥ 1, to two units in the last place of max(1, |log x|).

    x = 2**k m with √½ ≤ m < √2; log m = 2 artanh(f), f = (m - 1) / (m + 1), by its series to
    f**21 (remainder below 1e-18).
    """
    bits = np.float64(x).view(np.int64)
    k = (bits - _SQRT_HALF_BITS) >> 52
    m = np.int64(bits - (k << 52)).view(np.float64)
    f = (m - 1.0) / (m + 1.0)
    s = f * f
    p = 2.0 / 21.0
    p = p * s + 2.0 / 19.0
    p = p * s + 2.0 / 17.0
    p = p * s + 2.0 / 15.0
    p = p * s + 2.0 / 13.0
    p = p * s + 2.0 / 11.0
    p = p * s + 2.0 / 9.0
    p = p * s + 2.0 / 7.0
    p = p * s + 2.0 / 5.0
    p = p * s + 2.0 / 3.0
    remainder = p * s * f + 2.0 * f
    exponent = np.float64(k)
    return exponent * _LN2_HIGH + (exponent * _LN2_LOW + remainder)
