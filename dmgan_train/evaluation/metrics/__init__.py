"""The metrics, one small file each; `evaluate` runs them and writes every number with its protocol."""
