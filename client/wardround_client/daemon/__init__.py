"""The site as a daemon: what supervises the SuperNode and the worker, and the worker itself."""
