"""Engines: token ids in, token events out. Each file imports its own runtime only."""
