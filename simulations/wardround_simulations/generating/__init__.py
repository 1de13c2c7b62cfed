"""Images that a finished run's generator makes, and what they are good for."""

GRID = "samples.png"
"""In the folder of a run and of samples: some made images of each class."""
