"""The command line: one file for each command, everything heavy imported inside."""
