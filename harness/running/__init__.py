"""One run: obtain every network, attack it, keep what was observed."""
