"""A whole federation on one machine, made of the code that servers and sites run."""
