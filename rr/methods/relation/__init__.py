"""The relation head and its loss: do two representations come from the same image?"""

from rr.methods.relation.head import RelationHead
from rr.methods.relation.loss import relation_loss
from rr.methods.relation.pair_loss import PairLossConfig
from rr.methods.relation.reference import direct_logits_and_targets

__all__ = ["PairLossConfig", "RelationHead", "direct_logits_and_targets", "relation_loss"]
