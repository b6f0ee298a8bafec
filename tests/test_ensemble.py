"""Ensembles by hand: the mean of what their members say of each edge."""

from __future__ import annotations

import numpy as np
import pytest
from families import dataset, model
from scipy.stats import rankdata

from circuitkit.corruptions import counterfactual
from circuitkit.discovery import clean_corrupted, eap, eap_ig, ensemble
from circuitkit.errors import ArgumentError, UnknownNameError
from circuitkit.metrics import logit_diff

INPUTS = (logit_diff, counterfactual)


def brief() -> tuple[object, ...]:
    return model("llama"), dataset((7, 5)), *INPUTS


def test_by_scores_each_member_counts_as_much_as_another() -> None:
    members = [method(*brief()).values for method in (eap, eap_ig, clean_corrupted)]
    legal = model("llama").wiring.legal
    by_hand = sum(own / np.abs(own[legal]).mean() for own in members) / 3
    np.testing.assert_allclose(ensemble(*brief()).values, by_hand, rtol=1e-5, atol=1e-6)


def test_by_ranks_a_member_gives_places() -> None:
    found = ensemble(*brief(), members=["eap", "eap_ig(steps=2)"], by="ranks")
    assert found.about["settings"] == {"members": ["eap", "eap_ig(steps=2)"], "by": "ranks"}
    legal = model("llama").wiring.legal
    each = [own.values[legal] for own in (eap(*brief()), eap_ig(*brief(), steps=2))]
    places = [np.sign(own) * rankdata(np.abs(own)) / len(own) for own in each]
    np.testing.assert_allclose(found.values[legal], np.mean(places, axis=0), rtol=1e-5, atol=1e-7)
    assert 0.9 < np.abs(found.values).max() <= 1


def test_of_one_member_the_order_is_its_own() -> None:
    alone = eap(*brief())
    for by in ("scores", "ranks"):
        found = ensemble(*brief(), members=[eap], by=by)
        assert found.about["settings"]["members"] == ["eap"]
        assert np.array_equal(found.ranking(), alone.ranking())
        assert np.array_equal(np.sign(found.values), np.sign(alone.values))


def test_members_that_there_are_not_are_refused() -> None:
    for wrong in ([], "eap", [3]):
        with pytest.raises(ArgumentError, match="give a list of methods"):
            ensemble(*brief(), members=wrong)
    with pytest.raises(UnknownNameError, match="did you mean 'eap_ig'"):
        ensemble(*brief(), members=["eap_gi"])
