"""Export of encoders of the BERT kind to ONNX: weights of a checkpoint in, a graph with the tokens' vectors out."""
