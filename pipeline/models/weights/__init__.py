"""Weights of networks: our own files, and checkpoints from elsewhere."""
