"""A finished run's model over HTTP: `wardround serve`."""
