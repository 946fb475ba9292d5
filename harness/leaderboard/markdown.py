"""Markdown, as far as tables need it."""

from __future__ import annotations

from collections.abc import Sequence


def joined(cells: Sequence[str]) -> str:
    """Join cells into a line of a Markdown table; `|` in a cell becomes `/`."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
