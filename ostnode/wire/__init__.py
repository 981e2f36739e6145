"""The peer protocol without I/O: bytes in, events out."""
