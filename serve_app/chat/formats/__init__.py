"""Chat formats: how a family of models writes a conversation, and how answers in its form are read.

The only place that knows what a model's markers look like. A new format is a folder here and a line in `registry.py`.
"""
