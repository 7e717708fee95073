"""Backbones from elsewhere (`rr import`) and for elsewhere (`rr export`)."""
