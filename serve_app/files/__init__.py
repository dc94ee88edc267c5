"""The forms of a model's files: what exporters write and engines read, and the cache where derived forms are kept."""
