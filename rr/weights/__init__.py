"""Released weights. This package contains only data.

Each NAME has a backbone file from a published run, `NAME.safetensors`, and a model card, `NAME.safetensors.md`. If the
run trained a relation head, `NAME.json` holds the metrics, including the head's calibration, and the dataset (`target`)
on which the calibration was measured.
"""
