"""argv → a call → an exit code; no logic of its own."""
