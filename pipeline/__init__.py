"""segpress: compress segmentation networks until they fit the edge. The folder list reads like the pipeline."""
