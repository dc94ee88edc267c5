"""Continuous batching on raw ONNX Runtime."""
