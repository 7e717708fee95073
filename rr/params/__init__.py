"""Closed, typed models of `params.yaml`: an unknown key or a wrong type is an error that names its path.

Nothing here imports torch, so the command line and the Snakefile check parameters in milliseconds.
"""

from rr.params.datasets import (
    CifarSource,
    Dataset,
    FolderSource,
    ParquetSource,
    ShapesSource,
    SlimageNetSource,
    Source,
    Stl10Source,
    TinyImageNetSource,
)
from rr.params.loading import check, load, parse
from rr.params.methods import (
    BYOL,
    Backbone,
    BarlowTwins,
    DeepCluster,
    Imported,
    InfoMax,
    Method,
    Random,
    Relational,
    RotationNet,
    SimCLR,
    Supervised,
    VICReg,
)
from rr.params.protocols import Embedding, Finetune, Knn, Linear, Protocol, Retrieval
from rr.params.root import Dynamics, Grid, Params, lookup

__all__ = [
    "BYOL",
    "Backbone",
    "BarlowTwins",
    "CifarSource",
    "Dataset",
    "DeepCluster",
    "Dynamics",
    "Embedding",
    "Finetune",
    "FolderSource",
    "Grid",
    "Imported",
    "InfoMax",
    "Knn",
    "Linear",
    "Method",
    "Params",
    "ParquetSource",
    "Protocol",
    "Random",
    "Relational",
    "Retrieval",
    "RotationNet",
    "ShapesSource",
    "SimCLR",
    "SlimageNetSource",
    "Source",
    "Stl10Source",
    "Supervised",
    "TinyImageNetSource",
    "VICReg",
    "check",
    "load",
    "lookup",
    "parse",
]
