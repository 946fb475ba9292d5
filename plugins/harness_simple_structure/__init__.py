"""Simple Structure: a detector of adversarial images and the networks behind it."""
