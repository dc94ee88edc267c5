"""The task classifier's data, training and evaluation."""
