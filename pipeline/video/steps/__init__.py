"""The steps of a run, in the order in which frames pass them."""

from pipeline.video.steps.drawing import Drawing
from pipeline.video.steps.inferring import Inferring, Place
from pipeline.video.steps.reading import Reading
from pipeline.video.steps.writing import Writing

__all__ = ["Drawing", "Inferring", "Place", "Reading", "Writing"]
