"""Measures a running application over HTTP: load, samples, figures, comparison. Knows no internals of it."""
