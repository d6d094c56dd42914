"""What a result was computed from: code, weight files and raw files, each with its sha256."""
