"""The server as a daemon: what supervises Flower's SuperLink and the runner of each run."""
