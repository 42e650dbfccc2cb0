"""The commands ``pgcheckout shard-router`` and ``pgcheckout shard-move``."""

from __future__ import annotations

from typing import Annotated

import typer

from bridge.errors import SetupError
from bridge.sharding.moving import move
from bridge.sharding.script import router_script, shard_script
from bridge.sharding.setup import set_up, starts_of

__all__ = ["shard_move_command", "shard_router_command"]

_Shards = Annotated[
    list[str], typer.Option("--shards", help="URL of a migrated shard, as its owner; once for each, in their order.")
]


def shard_router_command(
    shards: _Shards,
    apply: Annotated[
        str | None, typer.Option(metavar="URL", help="Set up the shards and this router, as its superuser.")
    ] = None,
    of_shard: Annotated[int | None, typer.Option(help="Print the SQL of this shard, from 0, not the router's.")] = None,
) -> None:
    """Print the SQL of a database that forwards each call to the shard of its user, or --apply it."""
    if apply:
        set_up(apply, shards)
        typer.echo(f"The router forwards to {len(shards)} shards.")
    elif of_shard is None:
        typer.echo(router_script(shards), nl=False)
    elif 0 <= of_shard < len(shards):
        typer.echo(shard_script(of_shard, starts_of(shards)), nl=False)
    else:
        raise SetupError(f"There is no shard {of_shard}.", f"They are 0 to {len(shards) - 1}.")


def shard_move_command(
    logical_shards: Annotated[str, typer.Argument(help="Which: 793, or 0-127, or 5,9,200-255.")],
    shards: _Shards,
    router: Annotated[str, typer.Option(help="URL of the router, as its superuser.")],
    to: Annotated[int, typer.Option(help="The shard that gets them, from 0.")],
) -> None:
    """Move the users of logical shards to another shard. Their calls wait meanwhile, everybody else's go on.

    Safe to run again: what was cut off is ended first.
    """
    move(router, shards, to, _numbers(logical_shards), typer.echo)


def _numbers(text: str) -> list[int]:
    numbers: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            numbers += range(int(first), int(last or first) + 1)
    except ValueError:
        raise typer.BadParameter("write 793, or 0-127, or 5,9,200-255") from None
    if not numbers or not all(0 <= number <= 1023 for number in numbers):
        raise typer.BadParameter("logical shards are 0 to 1023")
    return numbers
