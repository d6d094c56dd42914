"""Networks that were not trained here: from an ONNX file and a description to an ONNX artifact like `export`'s."""
