"""What records say: cells, rows, readings, ranks and flags."""
