"""Plots as inline SVG, and embedded images."""
