"""Asymmetric negative contrast: the predictions of an image and of one of another class are pushed apart."""

import torch


def negatives(y):
    """For each label the index of an image of another class: one of the other classes at hand, then one of its images.

    None where there is only one class. Drawn from torch's global generator.
    """
    other = y[:, None] != y
    if not other.any():
        return None
    return torch.multinomial(other / torch.bincount(y)[y], 1).squeeze(1)


def contrast(anchor, negative, alpha):
    """How alike logits (n, k) of anchors and of their negatives are: 0 to 1, the mean over all rows.

    Rows that predict one class give the geometric mean of its two probabilities, others 0. A share `alpha` of it takes
    gradient on the negatives' side only, the rest on the anchors' only.
    """
    (p, of_anchor), (q, of_negative) = (logits.softmax(dim=1).max(dim=1) for logits in (anchor, negative))
    likeness = alpha * (p.detach() * q).sqrt() + (1 - alpha) * (p * q.detach()).sqrt()
    return (likeness * (of_anchor == of_negative)).mean()
