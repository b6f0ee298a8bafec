"""How edges are scored, one family a file.

A method is a function ``(model, data, metric, corruption, *, ...) -> Scores``. Scores are means
over the examples, in the metric's units, and positive where an edge helps the clean behaviour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitkit.registry import serve

if TYPE_CHECKING:  # what type checkers and editors see; a file that is not here is served too
    from circuitkit.discovery.activations import ceap as ceap
    from circuitkit.discovery.activations import eap_ig_activations as eap_ig_activations
    from circuitkit.discovery.attribution import clean_corrupted as clean_corrupted
    from circuitkit.discovery.attribution import eap as eap
    from circuitkit.discovery.attribution import eap_ig as eap_ig
    from circuitkit.discovery.attribution import expected_gradients as expected_gradients
    from circuitkit.discovery.baselines import activation_magnitude as activation_magnitude
    from circuitkit.discovery.baselines import gradient_norm as gradient_norm
    from circuitkit.discovery.baselines import information_flow as information_flow
    from circuitkit.discovery.baselines import node_attribution as node_attribution
    from circuitkit.discovery.budgets import auto as auto
    from circuitkit.discovery.codes import discrete_codes as discrete_codes
    from circuitkit.discovery.ensembles import ensemble as ensemble
    from circuitkit.discovery.learned import edge_pruning as edge_pruning
    from circuitkit.discovery.learned import ugs as ugs
    from circuitkit.discovery.mask_gradients import mask_gradient as mask_gradient
    from circuitkit.discovery.null import random as random
    from circuitkit.discovery.pruning import acdc as acdc
    from circuitkit.discovery.rankings import nested as nested
    from circuitkit.discovery.relevance import relp as relp
    from circuitkit.discovery.repaired import atp_star as atp_star
    from circuitkit.discovery.sweeps import exact as exact

__getattr__, __dir__ = serve("discovery")
