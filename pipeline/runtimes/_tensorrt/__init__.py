"""What the runtimes tensorrt and tensorrt_rtx share."""
