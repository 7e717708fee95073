"""The relation head and its loss: do two representations come from the same image?"""

from rr.methods.relation.head import RelationHead
from rr.methods.relation.pair_loss import PairLossConfig
from rr.methods.relation.relation_loss import direct_logits, relation_loss

__all__ = ["PairLossConfig", "RelationHead", "direct_logits", "relation_loss"]
