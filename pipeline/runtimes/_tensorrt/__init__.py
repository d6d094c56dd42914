"""Code that the runtimes tensorrt and tensorrt_rtx share."""
