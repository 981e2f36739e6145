"""Composition root: opens, starts and stops the parts in order."""
