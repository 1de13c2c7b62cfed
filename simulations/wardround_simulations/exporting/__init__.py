"""A finished run's model for other software: `wardround export`."""
