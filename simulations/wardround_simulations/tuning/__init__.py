"""Choosing hyper-parameters in simulation: random search, folds by patient, successive halving.

Only the study's training patients are used: those set aside for validation are not looked at, so
that what the chosen study scores on them is no wishful figure.
"""
