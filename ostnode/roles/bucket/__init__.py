"""The bucket role: uploads, references, outbox, feed application."""
