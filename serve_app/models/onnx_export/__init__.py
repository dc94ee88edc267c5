"""The ONNX export: a Phi-3 checkpoint as a graph with quantized weights, written tensor by tensor, without PyTorch.

`decoder` reads the configuration, `layout` plans the data file, `quantize` rounds, `data_file` writes, `graph` builds the nodes,
`folder` puts them together. Weights and scales are bit for bit those of onnxruntime-genai's builder, which the tests compare with.
"""
