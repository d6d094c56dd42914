"""Results -> tables, figures and one HTML page."""
