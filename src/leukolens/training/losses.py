"""What training lowers: cross-entropy with class weights, perhaps smoothed or focal, and images mixed in pairs.

In: logits, class indices and class weights; augmented grey levels. Out: a loss in nats; mixed grey levels. Writes: nothing.
The loss by which epochs are judged on validation is none of these: it stays the plain one (`selection.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from leukolens.settings import TrainSettings

# Below this share of doubt the focal loss is flat: its slope at no doubt at all is infinite for powers under 1.
_LEAST_DOUBT = 1e-6
_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Mixed:
    """`levels` [batch, 3, height, width], of which `share` is each image's own and the rest that of its partner.

    `partners` int64 [batch] holds the partners' positions in the batch.
    """

    levels: Tensor
    partners: Tensor
    share: float


def training_loss(logits: Tensor, labels: Tensor, weights: Tensor | None, settings: TrainSettings) -> Tensor:
    """Loss of logits float32 [batch, classes] for class indices [batch], averaged by the class weights of the labels.

    - `label_smoothing` s: the label counts for 1 - s, and s is spread evenly over all classes (Szegedy et al. 2016,
      arXiv:1512.00567, section 7).
    - `focal_gamma` g: the loss of an image is multiplied by (1 - p)^g, p being the probability of its class (Lin et al.
      2017, arXiv:1708.02002, equation 5). Divided by the same class weights as without, so that a batch of sure answers
      pulls less than one of unsure ones.
    """
    smoothing = settings.label_smoothing
    if not settings.focal_gamma:
        return functional.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
    losses = functional.cross_entropy(logits, labels, weights, reduction="none", label_smoothing=smoothing)
    own = torch.log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]
    doubt = (-torch.expm1(own)).clamp_min(_LEAST_DOUBT)
    count = float(len(labels)) if weights is None else weights[labels].sum()
    return (doubt**settings.focal_gamma * losses).sum() / count


def mix_up(levels: Tensor, alpha: float, generator: torch.Generator) -> Mixed:
    """Mix each image of a batch with another, with one share for all drawn from Beta(alpha, alpha).

    Zhang et al. 2018, arXiv:1710.09412, as in their published code: one share per batch, partners from the same batch.
    Grey levels are mixed, which is the same as mixing what normalisation makes of them.
    """
    # PyTorch draws no beta distribution from a generator of one's own.
    seed = int(torch.randint(_LARGEST_SEED, (1,), generator=generator))
    random = np.random.default_rng(seed)
    share = float(random.beta(alpha, alpha))
    partners = torch.from_numpy(random.permutation(len(levels))).to(levels.device)
    return Mixed(torch.lerp(levels[partners], levels, share), partners, share)
