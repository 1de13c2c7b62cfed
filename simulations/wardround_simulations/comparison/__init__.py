"""One study trained in several ways on the same patients: what a hospital gains by joining.

Pooled is what nobody may do and everybody compares with, each site alone is what a hospital has
without joining, and federated is what it would get, without and with differential privacy. All of
them train with a site's own code, and all are measured on the same validation patients.
"""
