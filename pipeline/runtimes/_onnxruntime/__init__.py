"""What :mod:`pipeline.runtimes.onnxruntime` is made of."""
