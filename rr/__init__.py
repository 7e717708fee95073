"""Self-supervised relational reasoning (Patacchiola & Storkey, NeurIPS 2020) as a reproducible workflow."""

__version__ = "0.1.0"
