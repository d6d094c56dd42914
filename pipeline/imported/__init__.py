"""Networks that were not trained here: ONNX file and description -> what `export` writes of ours."""
