"""Flower's internals, as far as the server touches them; no other module of this package does.

`superlink` serves Flower's APIs, `control` is their operator, `grid` the way of messages.
"""
