"""Models: where their files are, under which names they are served, and their derived forms."""
