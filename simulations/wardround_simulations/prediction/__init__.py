"""A finished run's model on new inputs: `wardround predict`."""
