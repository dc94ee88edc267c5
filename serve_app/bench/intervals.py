"""Confidence intervals of few figures (Student's t, Welch) and of many samples (bootstrap). Pure."""

import math
import statistics
from collections.abc import Sequence

import numpy as np

_T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101,
    2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""The 97.5 % quantile of Student's t for 1, 2, ... degrees of freedom."""
_T975_MANY = 1.96
_RESAMPLES = 2000


def quantile_t(freedom: float) -> float:
    """Return the 97.5 % quantile of Student's t; degrees of freedom are rounded down, which widens intervals."""
    return _T975[max(1, int(freedom)) - 1] if freedom < len(_T975) + 1 else _T975_MANY


def half_width(figures: Sequence[float]) -> float | None:
    """Return half of the 95 % interval of the mean; None of fewer than two figures."""
    if len(figures) < 2:
        return None
    return quantile_t(len(figures) - 1) * statistics.stdev(figures) / math.sqrt(len(figures))


def welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of mean(b) - mean(a) by Welch's t; None where either has fewer than two figures."""
    if len(a) < 2 or len(b) < 2:
        return None
    parts = [statistics.variance(each) / len(each) for each in (a, b)]
    difference = statistics.fmean(b) - statistics.fmean(a)
    if not sum(parts):
        return difference, difference
    freedom = sum(parts) ** 2 / sum(part**2 / (len(each) - 1) for part, each in zip(parts, (a, b), strict=True))
    width = quantile_t(freedom) * math.sqrt(sum(parts))
    return difference - width, difference + width


def bootstrap(a: Sequence[float], b: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of mean(b) - mean(a) over resampled samples; None of fewer than two samples."""
    if len(a) < 2 or len(b) < 2:
        return None
    draw = np.random.default_rng(seed)
    means = [draw.choice(np.asarray(each), (_RESAMPLES, len(each))).mean(axis=1) for each in (a, b)]
    low, high = np.percentile(means[1] - means[0], (2.5, 97.5))
    return float(low), float(high)
