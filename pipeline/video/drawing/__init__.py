"""What is drawn over a frame: class colours, uncertainty, and the legend."""
