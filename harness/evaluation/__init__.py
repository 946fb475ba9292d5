"""Attack one shard and judge it."""
