"""Chat formats: each renders the conversations of a family of models and parses their answers.

The only place that knows a model's markers. A new format is a folder here and a line in `registry.py`.
"""
