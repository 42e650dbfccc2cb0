"""Past one machine: a router database with the functions of docs/functions.md, which forwards them to shards.

The shards run our migrations unchanged. :mod:`routes` says where each function goes, :mod:`script` writes the SQL of a
router and of a shard, :mod:`setup` applies it, :mod:`moving` moves users from one shard to another.
"""

from __future__ import annotations

from bridge.sharding.moving import move
from bridge.sharding.script import router_script, shard_script
from bridge.sharding.setup import set_up

__all__ = ["move", "router_script", "set_up", "shard_script"]
