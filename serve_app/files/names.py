"""Names of files that one part writes and another reads. Imports nothing, so that no part needs another's packages."""

GGUF_FILE = "model.gguf"
"""The file of weights that the GGUF export writes."""
