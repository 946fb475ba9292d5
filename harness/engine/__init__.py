"""Where shards run. `inline` is in this process; others join here without changing what is measured."""
