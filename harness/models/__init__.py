"""What is deployed: networks obtained, wrapped, and brought by users."""
