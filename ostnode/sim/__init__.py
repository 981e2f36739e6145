"""A whole cluster in one process, in virtual time, under seeded faults (docs/adr/015)."""
