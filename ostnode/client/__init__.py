"""The Python SDK: HTTP for data, a peer link for administration."""
