"""Markdown, as far as tables need it."""

from __future__ import annotations

from collections.abc import Sequence


def joined(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
