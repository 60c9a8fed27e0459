"""What a trained model is worth: metrics, figures, ablations, a page about a run, and where images come from."""
