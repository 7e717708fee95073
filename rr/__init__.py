"""Self-supervised relational reasoning (Patacchiola & Storkey, NeurIPS 2020), as a library and a reproducible workflow.

The names in `__all__` are the public interface. Each is imported on first use, so `import rr` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rr.data.preprocessing import Preprocessing
    from rr.errors import UserError
    from rr.gallery.feature_extractor import wrap_network
    from rr.gallery.python_api import Gallery, compare, cosine_similarity, embed, load_backbone
    from rr.methods.relation.head import RelationHead
    from rr.methods.relation.loss import relation_loss
    from rr.methods.relation.pair_loss import PairLossConfig
    from rr.methods.relation.pairs import partners
    from rr.views import Augmentation, make_views

__version__ = "0.2.0.dev0"

__all__ = [
    "Augmentation",
    "Gallery",
    "PairLossConfig",
    "Preprocessing",
    "RelationHead",
    "UserError",
    "compare",
    "cosine_similarity",
    "embed",
    "load_backbone",
    "make_views",
    "partners",
    "relation_loss",
    "wrap_network",
]

# For each public name, the module from which it is imported and its name in that module. The imports above list the
# same names for type checkers.
_SOURCES = {
    "Augmentation": ("rr.views", "Augmentation"),
    "Gallery": ("rr.gallery.python_api", "Gallery"),
    "PairLossConfig": ("rr.methods.relation.pair_loss", "PairLossConfig"),
    "Preprocessing": ("rr.data.preprocessing", "Preprocessing"),
    "RelationHead": ("rr.methods.relation.head", "RelationHead"),
    "UserError": ("rr.errors", "UserError"),
    "compare": ("rr.gallery.python_api", "compare"),
    "cosine_similarity": ("rr.gallery.python_api", "cosine_similarity"),
    "embed": ("rr.gallery.python_api", "embed"),
    "load_backbone": ("rr.gallery.python_api", "load_backbone"),
    "make_views": ("rr.views", "make_views"),
    "partners": ("rr.methods.relation.pairs", "partners"),
    "relation_loss": ("rr.methods.relation.loss", "relation_loss"),
    "wrap_network": ("rr.gallery.feature_extractor", "wrap_network"),
}


if not TYPE_CHECKING:  # otherwise, type checkers would accept every name

    def __getattr__(name: str) -> Any:
        """Import a public name (PEP 562)."""
        if name not in _SOURCES:
            raise AttributeError(f"module 'rr' has no attribute {name!r}")
        module, attribute = _SOURCES[name]
        value = globals()[name] = getattr(import_module(module), attribute)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
