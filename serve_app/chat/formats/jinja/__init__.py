"""The chat format that runs the chat template of a model's folder."""
