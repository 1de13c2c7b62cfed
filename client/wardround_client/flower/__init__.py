"""Flower's internals, as far as a site touches them; no other module of this package does.

`supernode` is the site's connection to the server, `tasks` the worker's way to it.
"""
