"""Test-time purification by a single adversarial step (TPAP)."""
