"""Where a number becomes a flag: here and only here. Points are per cent; a threshold must be exceeded.

The thresholds are the harness's own, except `STRONGER`, which is AutoAttack's (Croce and Hein 2020).
"""

IMAGES = 2
"""What two runs disagree on must be at least so many images: one may be luck."""

CLEAN_SLACK = 0.1
"""Points that accuracy under attack may lie above clean accuracy."""
SINGLE_STEP_SLACK = 0.5
"""Points that a one-step attack may be better than every iterated one."""
RISE = 0.1
"""Points that accuracy may rise with more steps, or with a larger budget."""
RESTARTS_GAIN = 1.0
"""Points that more restarts may take."""
STEPS_GAIN = 1.0
"""Points that more steps may take from a run that already has `MANY_STEPS`."""
MANY_STEPS = 100
STRONGER = 0.2
"""Points of images that an attacker who knows less may break beyond those who know the deployed network."""
LOSS_GAP = 3.0
"""Points between runs that differ in nothing but cross-entropy against margin."""
OVERFITTING_GAP = 40.0
"""Points of FGSM accuracy above PGD-20 accuracy: catastrophic overfitting (Wong et al. 2020)."""
FLOOR = 1.0
"""Points above chance that may stand where the budget covers every image."""

LOGIT_NOISE = 1e-4
"""Difference between two passes, as a share of the largest logit."""
BATCH_DEPENDENCE = 1e-3
"""By what share of the gap between two logits the images beside an image may move them."""
PROBABILITIES = 0.0
"""Share of images that are answered with probabilities."""
ZERO_GRADIENT_CE = 0.01
"""Share of images without a gradient under cross-entropy; a few saturate in honest networks."""
ZERO_GRADIENT_MARGIN = 0.0
"""The same under the margin, which does not saturate."""
GRADIENT_CALLS = 0.0
"""Calls for gradients in one prediction."""
LABELS_TAKEN = 0.0
"""Labels that the deployed forward accepts."""
