"""Video: sources, the loop, overlay and sinks, on the device."""
