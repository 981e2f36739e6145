"""Pure decisions of the index role."""
