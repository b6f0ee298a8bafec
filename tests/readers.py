"""All readers of input of unknown origin, by the part that they belong to."""

from __future__ import annotations

from collections.abc import Callable

import damage_graphs as graphs
import damage_models as models
import damage_prompts as prompts
import damage_runs as runs
import damage_words as words
from damage import Reader

PARTS: dict[str, tuple[Callable[[], Reader], ...]] = {
    "graphs": (
        graphs.circuits, graphs.plain_circuits, graphs.scores, graphs.plain_scores,
        graphs.certainties, graphs.graphs, graphs.tensors, graphs.submissions,
        graphs.prune_scores, graphs.edge_lists,
    ),
    "prompts": (
        prompts.comma_csv, prompts.semicolon_csv, prompts.wide_csv, prompts.tsv, prompts.json_list,
        prompts.json_columns, prompts.json_lines, prompts.parquet, prompts.standard_input,
    ),
    "runs": (
        runs.blocks, runs.sweeps, runs.study_cells, runs.benchmark_cells, runs.tracks, runs.effects,
        runs.decoders, runs.trained_models, runs.masks, runs.tables,
    ),
    "models": (models.models,),
    "words": (
        words.methods, words.corruptions, words.metrics, words.tasks, words.columns, words.options,
        words.replays,
    ),
}  # fmt: skip
# Another reader is another function here.
READERS: dict[str, Callable[[], Reader]] = {
    made.__name__: made for own in PARTS.values() for made in own
}
