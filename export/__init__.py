"""From the PyTorch reference to portable ONNX graphs, and from those to the variants of each target."""
