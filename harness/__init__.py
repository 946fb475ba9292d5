"""A benchmark harness for the adversarial robustness of image classifiers. Start at `harness.api`."""

__version__ = "0.1.0"
