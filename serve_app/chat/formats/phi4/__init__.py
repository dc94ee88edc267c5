"""The chat format of the Phi-4-mini models."""
