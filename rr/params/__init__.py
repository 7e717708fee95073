"""Strict, typed models of `params.yaml`: an unknown key or a wrong type raises an error that contains its path.

Nothing here imports torch, so the command line and the Snakefile can check parameters within milliseconds. The
exception is an entry with a user-defined class: checking it imports the module of the class, which usually imports
torch.
"""

from rr.params.backbones import ExtensionBackboneConfig
from rr.params.claims import ClaimConfig
from rr.params.datasets import (
    CifarSource,
    DatasetConfig,
    DigitsSource,
    ExtensionSource,
    FolderSource,
    OwnImagesSource,
    ParquetSource,
    PublishedSource,
    ShapesSource,
    SlimageNetSource,
    Source,
    SplitNames,
    Stl10Source,
    TinyImageNetSource,
)
from rr.params.loading import load_params, parse_params, parse_yaml, read_utf8
from rr.params.methods import (
    BarlowTwinsConfig,
    BYOLConfig,
    DeepClusterConfig,
    ExtensionConfig,
    ImportedConfig,
    InfoMaxConfig,
    MethodConfig,
    RandomConfig,
    RelationalConfig,
    RotationNetConfig,
    SimCLRConfig,
    SupervisedConfig,
    VICRegConfig,
)
from rr.params.protocols import (
    CLASSIFICATION_PROTOCOLS,
    NUMPY_PROTOCOLS,
    EmbeddingConfig,
    ExtensionProtocolConfig,
    FinetuneConfig,
    KnnConfig,
    LinearConfig,
    ProtocolConfig,
    RetrievalConfig,
)
from rr.params.schema import DynamicsConfig, GridConfig, Params, lookup

__all__ = [
    "CLASSIFICATION_PROTOCOLS",
    "NUMPY_PROTOCOLS",
    "BYOLConfig",
    "BarlowTwinsConfig",
    "CifarSource",
    "ClaimConfig",
    "DatasetConfig",
    "DeepClusterConfig",
    "DigitsSource",
    "DynamicsConfig",
    "EmbeddingConfig",
    "ExtensionBackboneConfig",
    "ExtensionConfig",
    "ExtensionProtocolConfig",
    "ExtensionSource",
    "FinetuneConfig",
    "FolderSource",
    "GridConfig",
    "ImportedConfig",
    "InfoMaxConfig",
    "KnnConfig",
    "LinearConfig",
    "MethodConfig",
    "OwnImagesSource",
    "Params",
    "ParquetSource",
    "ProtocolConfig",
    "PublishedSource",
    "RandomConfig",
    "RelationalConfig",
    "RetrievalConfig",
    "RotationNetConfig",
    "ShapesSource",
    "SimCLRConfig",
    "SlimageNetSource",
    "Source",
    "SplitNames",
    "Stl10Source",
    "SupervisedConfig",
    "TinyImageNetSource",
    "VICRegConfig",
    "load_params",
    "lookup",
    "parse_params",
    "parse_yaml",
    "read_utf8",
]
