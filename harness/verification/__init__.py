"""Whether numbers still stand: tables, witnesses, and shards attacked again."""
