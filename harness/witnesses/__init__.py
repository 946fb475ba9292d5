"""Images kept as proof of what was broken."""
