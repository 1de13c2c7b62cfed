"""What hospitals and the server must agree on: study, messages, models, preprocessing, privacy."""

__version__ = "0.1.0"
