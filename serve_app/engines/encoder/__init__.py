"""The encoder engine: embeddings by ONNX Runtime."""
