"""The paper's figures, drawn from a run or a bundle, and real pictures against generated ones."""
