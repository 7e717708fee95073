"""Convert backbones from and to the formats of other programs (`rr import` and `rr export`)."""
