"""From a raw data set to checked images, train ids and splits."""
