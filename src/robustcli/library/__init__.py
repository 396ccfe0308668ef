"""The face for Python: certify, attack and distance for own models and points, by the engine of the commands.

`robustcli/__init__.py` hands these names out when they are first used, so that importing the package costs nothing.
"""
