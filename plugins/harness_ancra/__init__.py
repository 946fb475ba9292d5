"""Asymmetric negative contrast and reverse attention (ANCRA)."""
