"""Convert backbones from and to the formats of other programs, and describe weights and data for others."""
