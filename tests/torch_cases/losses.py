"""Losses of margins and likelihoods, and the distances that they are made of."""

from __future__ import annotations

from collections.abc import Iterator

from .calls import Case, X, case
from .operands import M, P, S, V

SIGNS = X((2, 3), -1, 1, "int64")
SIGN = X((2,), -1, 1, "int64")
ROWS = X((5, 4), -1.5, 1.5)
CLASSES = X((5,), 0, 3, "int64")
COUNTS = X((2, 3), 0, 4)


def _reductions(name: str, *args: object, **kwargs: object) -> Iterator[Case]:
    for reduction in ("none", "mean", "sum"):
        yield case(f"nn.functional.{name}", *args, reduction=reduction, **kwargs)


def _pairs() -> Iterator[Case]:
    yield from _reductions("hinge_embedding_loss", M, SIGNS)
    yield from _reductions("hinge_embedding_loss", M, SIGNS, margin=0.3)
    yield from _reductions("margin_ranking_loss", M, M, SIGNS)
    yield from _reductions("margin_ranking_loss", V, V, X((4,), -1, 1, "int64"), margin=0.5)
    yield from _reductions("cosine_embedding_loss", M, M, SIGN)
    yield from _reductions("cosine_embedding_loss", M, M, SIGN, margin=-0.4)
    yield from _reductions("cosine_embedding_loss", V, V, X((), 1, 1, "int64"))
    for options in ({}, {"margin": 0.5, "p": 1.0}, {"swap": True, "eps": 1e-3}, {"p": 3.0}):
        yield from _reductions("triplet_margin_loss", M, M, M, **options)
    yield from _reductions("triplet_margin_loss", V, V, V)
    yield from _reductions("triplet_margin_with_distance_loss", M, M, M, margin=2.0, swap=True)


def _margins() -> Iterator[Case]:
    yield from _reductions("soft_margin_loss", M, SIGNS)
    for shape, target in ((ROWS, CLASSES), (V, X((), 0, 3, "int64")), (V, X((1,), 0, 3, "int64"))):
        yield from _reductions("multi_margin_loss", shape, target)
        yield from _reductions("multi_margin_loss", shape, target, 2, 0.7)
    yield from _reductions("multilabel_margin_loss", ROWS, X((5, 4), -1, 3, "int64"))
    yield from _reductions("multilabel_margin_loss", V, X((4,), -1, 3, "int64"))
    yield from _reductions("multilabel_soft_margin_loss", M, X((2, 3), 0, 1, "int64"))
    yield from _reductions("multilabel_soft_margin_loss", M, X((2, 3), 0, 1), X((3,), 0.5, 2.0))


def _likelihoods() -> Iterator[Case]:
    yield from _reductions("gaussian_nll_loss", M, M, P)
    yield from _reductions("gaussian_nll_loss", M, M, X((2,), 0.3, 2.0), True)
    yield from _reductions("gaussian_nll_loss", M, M, X((2, 1), 0.3, 2.0))
    yield from _reductions("gaussian_nll_loss", M, M, 0.5)
    yield from _reductions("poisson_nll_loss", M, COUNTS)
    yield from _reductions("poisson_nll_loss", M, COUNTS, full=True)
    yield from _reductions("poisson_nll_loss", P, COUNTS, log_input=False, eps=1e-3)


def _distances() -> Iterator[Case]:
    name = "pairwise_distance"
    yield from (case(name, M, M), case(name, M, M, 1.0, 1e-3, True), case(name, M, X((3,))))
    yield from (case(name, M, M, float("inf")), case(name, V, V, 3.0))
    name = "cosine_similarity"
    yield from (case(name, M, M), case(name, M, X((3,))), case(name, X((4, 1, 3)), X((2, 3)), -1))
    yield from (case(name, V, V, 0), case(name, M, M, dim=0, eps=0.1), case(name, S, S, 0))
    yield from (case("pdist", X((5, 3))), case("pdist", M, 1.0), case("pdist", X((1, 3)), 3.0))
    yield from (case(f"nn.functional.{name}", M, M), case("nn.functional.pairwise_distance", M, M))


CASES = [*_pairs(), *_margins(), *_likelihoods(), *_distances()]
