"""Transports, listeners, one link per connection, dialling with backoff."""
