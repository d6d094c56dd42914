"""The steps of a run: reading, inferring, drawing, writing."""

from pipeline.video.steps.drawing import Drawing
from pipeline.video.steps.inferring import Inferring, Place
from pipeline.video.steps.reading import Reading
from pipeline.video.steps.writing import Writing

__all__ = ["Drawing", "Inferring", "Place", "Reading", "Writing"]
