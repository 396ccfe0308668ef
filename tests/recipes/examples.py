"""A small valid recipe as text, for tests that spoil it."""

GOOD = """
name: example
summary: a recipe
origin: own
dataset: mnist
architecture: fc1
eps: {linf: 0.1, l2: 0.3}
norm: linf
method: {name: mmr, norm: linf, lmbd: 2, gamma: 0.1}
"""
