"""What a node can be: an index or a bucket."""
