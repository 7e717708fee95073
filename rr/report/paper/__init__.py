"""The results of the paper, and the comparison of our results with them."""
