"""From a request to the cells of a matrix."""
