"""Fits the linear model: features to a kernel, logistic regression on it, and back to one weight per feature.

There are fewer rows than features, so the optimum lies in the span of the rows (representer theorem). Working with the kernel's
Cholesky factor, the same model is fitted in a fraction of the time, and leaving sources out costs one small fit each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from serve_app.routing.features import GROUPS, TABLE_ROWS, Lexicon, extract

Floats = NDArray[np.float32]

GAINS: Mapping[str, float] = {"chars": 1.0, "words": 0.7, "shapes": 0.7, "concepts": 1.6, "asked": 1.2, "measures": 0.5}
"""Weight of each group of features in the kernel."""


def matrix(texts: Sequence[str], lexicon: Lexicon, gains: Mapping[str, float] = GAINS) -> csr_matrix:
    """Return one sparse row per text: each group scaled by its gain over the root of its count."""
    indices, values, bounds = [], [], [0]
    for text in texts:
        for group, rows in zip(GROUPS, extract(text, lexicon), strict=True):
            indices.append(rows)
            values.append(np.full(len(rows), gains[group] / max(1.0, len(rows)) ** 0.5, dtype=np.float32))
        bounds.append(bounds[-1] + sum(len(rows) for rows in indices[-len(GROUPS) :]))
    result = csr_matrix((np.concatenate(values), np.concatenate(indices), bounds), shape=(len(texts), TABLE_ROWS))
    result.sum_duplicates()
    return result


@dataclass(frozen=True)
class Space:
    """The texts' coordinates in the span of their features."""

    features: csr_matrix
    factor: Floats

    @classmethod
    def of(cls, features: csr_matrix) -> "Space":
        """Factor the kernel of `features`."""
        kernel = (features @ features.T).toarray().astype(np.float32)
        kernel[np.diag_indices_from(kernel)] += 1e-3
        return cls(features, cholesky(kernel, lower=True, overwrite_a=True, check_finite=False))

    def primal(self, coefficients: Floats) -> Floats:
        """Return the weight per feature of a model fitted on `factor`."""
        dual = solve_triangular(self.factor, coefficients, lower=True, trans="T", check_finite=False)
        return np.asarray(self.features.T @ dual, dtype=np.float32)


def fit(factor: Floats, labels: Sequence[str], weights: Floats, strength: float) -> LogisticRegression:
    """Fit a regularised multinomial logistic regression."""
    model = LogisticRegression(C=strength, max_iter=300, tol=1e-3)
    model.fit(factor, labels, sample_weight=weights)
    return model
