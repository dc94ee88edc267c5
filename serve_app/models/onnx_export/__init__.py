"""The ONNX export: a decoder's checkpoint as a graph with quantized weights, written tensor by tensor, without PyTorch.

`decoder` reads the configuration, `layout` plans the data file, `quantize` rounds weights, `data_file` writes them, `graph` builds
the nodes, `folder` combines the parts. Weights and scales equal those of onnxruntime-genai's builder bit for bit, as the tests
check.
"""
