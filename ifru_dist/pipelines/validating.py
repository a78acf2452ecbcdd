"""What training is stopped by, and whose recommendations a model is judged by."""

import math

import numpy as np

from ifru_dist.evaluation.candidates import Candidates
from ifru_dist.evaluation.ranking import auc
from ifru_dist.evaluation.top_k import CUTOFF, TopK
from ifru_dist.interactions import Interactions
from ifru_dist.models.factory import build_model
from ifru_dist.models.predict import Predictor
from ifru_dist.models.spec import ModelSpec
from ifru_dist.training.validation import Validation
from ifru_dist.workspace.version import Version

_USERS_OF_AN_EPOCH = 4096
"""Users at most that training is stopped by."""
_SCORES_ONE_BY_ONE = 1 << 26
"""Scores of a ranking at most by a model that scores pair by pair: about half a minute of one core."""


def validation_of(version: Version, spec: ModelSpec, train: Interactions) -> Validation | None:
    """What the training of a model on some of a version's interactions is stopped by.

    Where the validation pairs have both labels that is their AUC. Where all are positives, and for a model that learns
    to rank a user's items (bpr), it is the recall of their users, of a sample where these are many. Where there are
    none, or a ranking would need more fields than a user and an item, it is nothing.
    """
    valid = version.held_out("valid")
    by_auc = auc_validation(valid)
    ranks = spec.loss == "bpr" and bool((valid.labels > 0.5).any())
    if spec.fields > 2 or (by_auc is not None and not ranks):
        return by_auc
    return recall_validation(top_k_question(version, spec, train, valid, _USERS_OF_AN_EPOCH))


def auc_validation(valid: Interactions) -> Validation | None:
    """AUC of some pairs; None where they do not have both labels."""
    if np.unique(valid.labels).size < 2:
        return None

    def figure(predictor: Predictor) -> float:
        scores = predictor.scores(valid.rows)
        value = auc(scores, valid.labels) if np.isfinite(scores).all() else None
        return math.nan if value is None else value

    return Validation(name="valid_auc", figure=figure)


def recall_validation(question: TopK) -> Validation | None:
    """Recall of the users that a question is about; None without users."""
    if question.users == 0:
        return None
    name = f"recall_at_{CUTOFF}"

    def figure(predictor: Predictor) -> float:
        finite = np.isfinite(predictor.scores(question.pairs)).all()
        value = question.figures(predictor.item_scores(question.items))[name] if finite else None
        return math.nan if value is None else value

    return Validation(name=f"valid_{name}", figure=figure)


def top_k_question(
    version: Version, spec: ModelSpec, known: Interactions, held_out: Interactions, most_users: int | None = None
) -> TopK:
    """The users whose first recommendations are compared with held-out positives.

    Args:
        version: Says how many items there are, and which are forgotten.
        spec: The model that will be asked. One that scores pair by pair is asked about a sample of users where all
            would take too long.
        known: Interactions whose positives are no candidates.
        held_out: Pairs, with labels.
        most_users: Users at most.
    """
    sizes = version.layout.sizes[0], version.layout.sizes[1]
    candidates = Candidates(known=known.positives(), sizes=sizes, excluded_rows=version.forgotten_rows())
    if not build_model(spec).scorer.dot_product:
        most_users = min(most_users or sizes[0], max(1, _SCORES_ONE_BY_ONE // sizes[1]))
    return TopK(held_out, candidates, most_users)
