"""Routing: which task a request is, and which engine group answers it."""
