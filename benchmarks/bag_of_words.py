"""Bag-of-words logistic regression for sentences, tuned: the bar for a small classifier."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Labelled = tuple[list[str], list[int]]
Predict = Callable[[Sequence[str]], NDArray[np.int64]]

STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Inverse regularization, scikit-learn's ``C``."""


def choose_bag_of_words(train: Labelled, held: Labelled) -> tuple[str, Predict]:
    """The most accurate on ``held`` of counts, presence and tf-idf, of words alone and word pairs, at each strength."""
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = {"token_pattern": r"\S+", "lowercase": False}
    best, found = -1.0, ("", CountVectorizer(), LogisticRegression())
    for (kind, make), longest in itertools.product(
        (
            ("counts", lambda n: CountVectorizer(ngram_range=(1, n), **words)),
            ("presence", lambda n: CountVectorizer(ngram_range=(1, n), binary=True, **words)),
            ("tf-idf", lambda n: TfidfVectorizer(ngram_range=(1, n), sublinear_tf=True, **words)),
        ),
        (1, 2),
    ):
        vectorizer = make(longest)
        known, unknown = vectorizer.fit_transform(train[0]), vectorizer.transform(held[0])
        for strength in STRENGTHS:
            model = LogisticRegression(C=strength, solver="liblinear", random_state=0).fit(known, train[1])
            if (accuracy := float(model.score(unknown, held[1]))) > best:
                grams = "words" if longest == 1 else "words and word pairs"
                best, found = accuracy, (f"logistic regression, {kind} of {grams}, C={strength:g}", vectorizer, model)
    name, chosen, fitted = found
    return name, lambda text: fitted.predict(chosen.transform(text))
