"""Drawing over frames: class colours, uncertainty, and the legend."""
