"""What is attacked: a dataset's parts, the shards of its test split, and the seeds of all randomness."""
