"""The index role: users, allocation, feed, heartbeat."""
