"""The paper's results, and the comparison with our results."""
