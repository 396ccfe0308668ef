"""robustcli: train, attack, certify and exactly verify provably robust ReLU classifiers."""

__version__ = "0.1.0"
