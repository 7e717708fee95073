"""The relation head and its loss: do two representations come from the same image?"""

from rr.methods.relation.head import RelationHead
from rr.methods.relation.loss import relation_loss
from rr.methods.relation.pair_loss import PairLossConfig

__all__ = ["PairLossConfig", "RelationHead", "relation_loss"]
