"""Rendered street scenes: their content (world, layout), how it is painted (canvas, render), and the light."""
