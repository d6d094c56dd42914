"""Accuracy, latency and budgets: the device side of `check`."""
