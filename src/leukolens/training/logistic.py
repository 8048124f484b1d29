"""Logistic regression with an L2 penalty on standardised features, fitted to its optimum by scikit-learn's L-BFGS.

In: standardised features, class indices and class weights of the training side. Out: weight and bias for one penalty after
another. Writes: nothing.
"""

from __future__ import annotations

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from leukolens.progress import logger

# Half decades, the strongest first. Linear probes of such networks are tried over 11 decades in Kornblith et al. 2019,
# arXiv:1805.08974; these are the six that matter on standardised features: with 100 a head knows little more than the class
# shares, with 0.0001 it has learned a few hundred images by heart.
PENALTIES = tuple(10 ** (exponent / 2) for exponent in range(4, -9, -1))

_MOST_STEPS = 1000
# Largest slope at which a fit counts as settled; the library's own 1e-4 leaves weak penalties where the one before ended.
_TOLERANCE = 1e-6


class Logistic:
    """One training side: `x` float32 [images, width], `y` int64 [images], class `weights` [classes] or None."""

    def __init__(self, x: Tensor, y: Tensor, classes: int, weights: Tensor | None) -> None:
        # What the library computes in; turned once and not for each penalty.
        self.x = x.double().numpy()
        self.y = y.numpy()
        self.classes = classes
        self.of_images = None if weights is None else weights[y].double().numpy()
        # Each fit starts from the one before, of the next stronger penalty.
        self.model = LogisticRegression(solver="lbfgs", max_iter=_MOST_STEPS, tol=_TOLERANCE, warm_start=True)

    def fit(self, penalty: float) -> tuple[Tensor, Tensor]:
        """Lower mean weighted cross-entropy + penalty / 2 * |weights|^2: weight float32 [classes, width], bias [classes].

        Of two classes the penalty is on the difference of their weights, which is all that scores depend on. The bias is
        free. Weights mean 1 over the images, so that a penalty means the same for few and many.
        """
        self.model.C = 1 / (penalty * len(self.y))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model.fit(self.x, self.y, sample_weight=self.of_images)
        if int(self.model.n_iter_.max()) >= _MOST_STEPS:
            logger.warning("logistic regression with penalty %.1g has not settled in %d steps", penalty, _MOST_STEPS)
        weight, bias = torch.from_numpy(self.model.coef_).float(), torch.from_numpy(self.model.intercept_).float()
        if self.classes > 2:
            return weight, bias
        return torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
