"""Pure decisions of the bucket role."""
