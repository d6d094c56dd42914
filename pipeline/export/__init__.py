"""torch -> ONNX: the core graph and the deploy graph."""
