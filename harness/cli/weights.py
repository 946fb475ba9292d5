"""`harness weights`: bring foreign weights in safely."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.errors import UsageError

app = typer.Typer(help="Bring foreign weights in safely.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Bring foreign weights in safely."""


@app.command("convert")
def convert(
    source: Annotated[Path, typer.Argument(help="A torch state dict (.pt, .pth).")],
    sha256: Annotated[
        str, typer.Option("--sha256", help="The sha256 that its publisher states; asked for if absent.")
    ] = "",
    rename: Annotated[list[str], typer.Option("--rename", help="OLD=NEW beginnings of names; repeatable.")] = [],  # noqa: B006
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write; beside the source by default.")
    ] = None,
) -> None:
    """Convert a state dict to safetensors, without ever running code from the file."""
    from harness.storage import foreign

    target = output or source.with_suffix(".safetensors")
    pairs = [pair.partition("=") for pair in rename]
    if not all(old and equals for old, equals, _ in pairs):
        raise UsageError("--rename needs OLD=NEW, as in --rename linear2.=head.")
    found = foreign.convert(source, target, sha256, {old: new for old, _, new in pairs})
    print(f"wrote {target}, tensors sha256 {found}")
