"""The model zoo of robustbench."""
