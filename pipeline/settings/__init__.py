"""params.yaml: its types, its plugins' options, presets, and the loss of each student."""
