"""Self-supervised relational reasoning (Patacchiola & Storkey, NeurIPS 2020), as a library and a reproducible workflow.

The names in `__all__` are the public interface. Each is imported on first use, so `import rr` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as in `_MODULES`, for type checkers and editors
    from rr.data.preprocessing import Preprocessing as Preprocessing
    from rr.errors import UserError as UserError
    from rr.exchange.save_network import build_backbone as build_backbone
    from rr.exchange.save_network import save_backbone as save_backbone
    from rr.gallery.feature_extractor import FeatureExtractor as FeatureExtractor
    from rr.gallery.feature_extractor import wrap_network as wrap_network
    from rr.gallery.python_api import Gallery as Gallery
    from rr.gallery.python_api import compare as compare
    from rr.gallery.python_api import cosine_similarity as cosine_similarity
    from rr.gallery.python_api import embed as embed
    from rr.gallery.python_api import load_backbone as load_backbone
    from rr.gallery.search_results import Hit as Hit
    from rr.methods.relation.head import RelationHead as RelationHead
    from rr.methods.relation.loss import relation_loss as relation_loss
    from rr.methods.relation.pair_loss import PairLossConfig as PairLossConfig
    from rr.methods.relation.pair_loss import PairStatistics as PairStatistics
    from rr.methods.relation.pairs import partners as partners
    from rr.views import PAPER_AUGMENTATION as PAPER_AUGMENTATION
    from rr.views import Augmentation as Augmentation
    from rr.views import make_views as make_views

__version__ = "0.2.0.dev0"

# The module that defines each public name.
_MODULES = {
    "Augmentation": "rr.views",
    "FeatureExtractor": "rr.gallery.feature_extractor",
    "Gallery": "rr.gallery.python_api",
    "Hit": "rr.gallery.search_results",
    "PAPER_AUGMENTATION": "rr.views",
    "PairLossConfig": "rr.methods.relation.pair_loss",
    "PairStatistics": "rr.methods.relation.pair_loss",
    "Preprocessing": "rr.data.preprocessing",
    "RelationHead": "rr.methods.relation.head",
    "UserError": "rr.errors",
    "build_backbone": "rr.exchange.save_network",
    "compare": "rr.gallery.python_api",
    "cosine_similarity": "rr.gallery.python_api",
    "embed": "rr.gallery.python_api",
    "load_backbone": "rr.gallery.python_api",
    "make_views": "rr.views",
    "partners": "rr.methods.relation.pairs",
    "relation_loss": "rr.methods.relation.loss",
    "save_backbone": "rr.exchange.save_network",
    "wrap_network": "rr.gallery.feature_extractor",
}


if not TYPE_CHECKING:  # otherwise, type checkers would accept every name, and would not understand `__all__`
    __all__ = list(_MODULES)

    def __getattr__(name: str) -> Any:
        """Import a public name (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module 'rr' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
