"""Experiments: what was looked into once and can be looked into again. Each is run as `python -m scripts.NAME`."""
