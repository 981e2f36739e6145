"""The segment log, its key index, recovery and reading."""
