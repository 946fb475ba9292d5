"""The version of this harness; records do not depend on it."""

__version__ = "0.1.0"
