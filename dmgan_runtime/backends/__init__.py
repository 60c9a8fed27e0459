"""Engines: what a backend is (`base`), the table of them (`registry`), and one file for each."""
