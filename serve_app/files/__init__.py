"""Reads and checks the files that exporters write and engines load, and keeps derived files in a cache."""
