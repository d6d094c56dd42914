"""Parts of :mod:`pipeline.runtimes.onnxruntime`."""
