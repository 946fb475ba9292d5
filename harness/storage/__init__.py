"""Files: canonical bytes, atomic writes, records, run folders and weights."""
