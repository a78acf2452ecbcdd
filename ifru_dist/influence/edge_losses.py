"""Losses of runs of edges and their derivatives, compiled: the same numbers as those of ``ifru_dist.models.losses``.

Exponential and logarithm are polynomials without branches or calls, so that a compiler computes several edges at once;
a library's would cost a call for each edge. Every operation is rounded by itself: an edge has the same bits wherever
it stands in a run.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifru_dist.influence.compiling import compiled
from ifru_dist.models.losses import Loss

Floats = NDArray[np.floating]

_KINDS = {"bce": 0, "squared": 1}
_FAR_OUT = 700.0
"""exp(-700) is nothing beside 1, and still a normal number."""
_LOG2_E, _LN2 = 1 / math.log(2), math.log(2)
_LN2_HIGH, _LN2_LOW = 0.6931471806019545, -4.2009150726810846e-11
"""ln 2 in two parts: the first one times a whole number under 2^20 is exact."""
_ROUND = 1.5 * 2.0**52
"""Added to a number and taken away again it leaves the nearest whole one."""
_EXP = tuple(1 / math.factorial(power) for power in range(13, -1, -1))
"""Taylor's series: 4e-18 off for |r| <= ln 2 / 2."""
_ATANH = tuple(1 / (2 * power + 1) for power in range(10, -1, -1))
"""Series of atanh(s) / s in s^2: 1e-18 off for |s| <= 0.172."""


def loss_code(loss: Loss) -> tuple[int, float]:
    """How compiled loops know a loss: its kind and its temperature."""
    return _KINDS[loss.name], loss.temperature


@compiled
def derivatives(
    loss: tuple[int, float], score: Floats, label: Floats, bits: Any, value: Floats, error: Floats, bend: Floats
) -> None:
    """Values of a loss and their first and second derivatives by the score, each (k,); ``bits`` (k,) int64 is room."""
    kind, temperature = loss
    if kind == 0:
        _cross_entropy(temperature, score, label, bits, value, error, bend)
        return
    for edge in range(len(score)):
        gap = score[edge] / temperature - label[edge]
        value[edge], error[edge], bend[edge] = 0.5 * temperature * gap * gap, gap, 1.0 / temperature


@compiled
def _cross_entropy(
    temperature: float, score: Floats, label: Floats, bits: Any, value: Floats, error: Floats, bend: Floats
) -> None:
    """T * bce(score / T, label)."""
    power, cooled = bits.view(np.float64), 1.0 / temperature
    for edge in range(len(score)):  # exp(-x) = 2^-k exp(r)
        far = min(abs(score[edge] * cooled), _FAR_OUT)
        halvings = (far * _LOG2_E + _ROUND) - _ROUND
        error[edge] = (halvings * _LN2_HIGH - far) + halvings * _LN2_LOW
        bits[edge] = (1023 - np.int64(halvings)) << 52
    for edge in range(len(score)):
        scaled, rest = score[edge] * cooled, error[edge]
        series = 0.0
        for factor in _EXP:
            series = series * rest + factor
        decay = power[edge] * series
        large = 1.0 / (1.0 + decay)
        error[edge] = (large if scaled >= 0 else decay * large) - label[edge]
        bend[edge] = decay * large * large * cooled
        halved = decay > 0.4142135623730951
        small = 0.5 * (decay - 1.0) if halved else decay  # log(1 + x) = log 2 + log(1 + (x - 1) / 2)
        ratio = small / (2.0 + small)
        square, series = ratio * ratio, 0.0
        for factor in _ATANH:
            series = series * square + factor
        softplus = (_LN2 if halved else 0.0) + 2.0 * ratio * series
        value[edge] = temperature * (max(scaled, 0.0) - scaled * label[edge] + softplus)
