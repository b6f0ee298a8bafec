"""Attribution graphs where the truth is known: a planted feature, and a compiled program."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from circuitkit.data.examples import Example
from circuitkit.features import Dictionary
from circuitkit.features.tracing import trace
from circuitkit.features.validation import validate
from circuitkit.models.decoder import SPECIAL, Decoder
from circuitkit.truth.rasp import compile_program, named

WORDS = (*SPECIAL, *"abcdef")
MARK, PLANTED = 8, 9  # the directions that nothing else reads or writes
SIZE, GAIN, SHARE = 2.0, 6.0, 0.5  # of the mark, of what is written, of the answer's unembedding


def planted() -> tuple[Decoder, list[Dictionary]]:
    """A random decoder with uniform attention and no norms, whose first MLP has a neuron that finds
    the mark of ``d``; a head of the last layer brings what it writes to the answer ``f``. Of its
    dictionaries, which are random else, feature 13 of layer 0 is that neuron."""
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int, axes: Sequence[int]) -> Tensor:
        found = torch.randn(*shape, generator=rng, dtype=torch.float64) / 3
        for axis in axes:
            found.narrow(axis, MARK, 2).zero_()
        return found

    embedding, unembedding = draw(8, 10, axes=[1]), draw(10, 8, axes=[0])
    v, o = draw(3, 2, 10, 4, axes=[2]), draw(3, 2, 4, 10, axes=[3])
    w_in, w_out = draw(3, 10, 6, axes=[1]), draw(3, 6, 10, axes=[2])
    embedding[WORDS.index("d"), MARK] = SIZE
    w_in[0, :, 0] = torch.nn.functional.one_hot(torch.tensor(MARK), 10)
    w_out[0, 0] = GAIN * torch.nn.functional.one_hot(torch.tensor(PLANTED), 10)
    v[2, 1], o[2, 1] = 0, 0
    v[2, 1, PLANTED, 0] = o[2, 1, 0, PLANTED] = 1
    unembedding[PLANTED, WORDS.index("f")] = SHARE
    nothing = torch.zeros_like(v)
    m = Decoder(
        "planted", WORDS, embedding, draw(9, 10, axes=[1]), nothing, nothing.clone(), v, o, w_in,
        w_out, unembedding, {},
    )  # fmt: skip
    coders = []
    for layer in range(3):
        encoder, decoder = draw(20, 10, axes=[1]), draw(20, 10, axes=[1])
        if layer == 0:
            encoder[13], decoder[13] = w_in[0, :, 0], w_out[0, 0]
        zero = torch.zeros(20, dtype=torch.float64)
        coders.append(Dictionary(layer, encoder, zero, decoder, zero[:10]))
    return m, coders


def test_a_planted_feature_is_found_with_its_effect() -> None:
    m, coders = planted()
    ids = (0, *map(WORDS.index, "adbc"))
    graph = trace(m, Example(ids, ids, (WORDS.index("f"),), (WORDS.index("e"),), {}), coders)
    top = graph.top(1)[0]
    assert top.name == "m0.f13@2"
    assert top.value == pytest.approx(SIZE)
    effect = SIZE * GAIN * SHARE / len(ids)  # uniform attention from the last of the tokens
    for found in (graph.totals, graph.live):
        assert found[graph.number[top.name]] == pytest.approx(effect)
    row = graph.weights[[graph.number[top.name]]].toarray()[0]
    assert {graph.nodes[i].name: row[i] for i in np.flatnonzero(row)} == {"input@2": SIZE}
    found = validate(m, graph, coders, nodes=1, factors=(0.0, 3.0))
    for changes in found.measured.values():
        assert changes[:, 0] == pytest.approx([-effect, 2 * effect])


def test_the_features_of_a_compiled_program_are_named() -> None:
    """Whether the last words are a, b and c: a feature for the first two, one for c, and one for
    both. Each is told by where it is active in all prompts, and the answer hangs on each."""
    program = named("three_pattern")
    m = compile_program(program)
    coders = [
        Dictionary(
            layer, m.w_in[layer].T, torch.zeros(m.w_in.shape[2], dtype=m.dtype), m.w_out[layer],
            torch.zeros(m.d_model, dtype=m.dtype),
        )
        for layer in range(m.wiring.layers)
    ]  # fmt: skip
    means: dict[str, Callable[[Sequence[str]], bool]] = {
        "a b": lambda words: tuple(words[-3:-1]) == ("a", "b"),
        "c": lambda words: words[-1] == "c",
        "a b c": lambda words: tuple(words[-3:]) == ("a", "b", "c"),
    }
    answers = tuple((m.words.index(word),) for word in ("True", "False"))
    ids = (0, *map(m.words.index, "cabc"))
    graph = trace(m, Example(ids, ids, *answers, {}), coders)
    assert graph.value == pytest.approx(1)
    assert graph.replacement == pytest.approx(1)
    strong = [node for node in graph.top(99) if abs(graph.totals[graph.number[node.name]]) > 1e-6]
    prompts = [prompt for prompt in program.answers if len(prompt) == 4]
    tokens = torch.tensor([[0, *map(m.words.index, prompt)] for prompt in prompts])
    read = m.native(tokens, torch.ones_like(tokens).bool()).mlp_in
    found = {}
    for node in strong:
        assert node.position == 4
        active = coders[node.layer].encode(read[node.layer][:, -1])[:, node.number] > 0.5
        fits = [name for name, holds in means.items() if active.tolist() == [*map(holds, prompts)]]
        assert len(fits) == 1, node.name
        found[fits[0]] = node.name
    assert set(found) == set(means)
    assert len(strong) == 3
    for name in ("total", "live"):
        assert [node.name for node in graph.top(3, name)] == [node.name for node in strong]
    assert [graph.totals[graph.number[node.name]] for node in strong] == pytest.approx([1] * 3)
    row = graph.weights[graph.number[found["a b c"]]].toarray().ravel()
    assert row[[graph.number[found[name]] for name in ("a b", "c")]] == pytest.approx([1, 1])
    taken = validate(m, graph, coders, nodes=3, factors=(0.0,))
    for changes in taken.measured.values():
        assert changes[0] == pytest.approx([-1] * 3)
