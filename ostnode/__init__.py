"""A content-addressed blob store for chat apps."""

__version__ = "0.1.0"
