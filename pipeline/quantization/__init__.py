"""Calibration and Q/DQ placement: one INT8 file for CPUs, one for TensorRT."""
