"""The HTTP interface: JSON on quart-trio, bytes on bare ASGI."""
