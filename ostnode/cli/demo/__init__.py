"""`ostnode demo`: every flow on real processes and real files."""
