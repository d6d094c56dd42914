"""Rendered street scenes: what is in them (world, layout), how it is painted (canvas, render), in what light."""
