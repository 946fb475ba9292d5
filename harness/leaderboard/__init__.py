"""From records to tables, and nothing else: no model, no data, no GPU."""
