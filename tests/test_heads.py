"""What is read of heads: direct attribution and what is left of it, copying and matching, and the
parts of attention scores; against plain modules, TransformerLens, and sums done by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import (
    FAMILIES,
    GROUPED,
    _hf,
    _stir,
    as_batch,
    build,
    dataset,
    distance,
    exactly,
    model,
    pristine,
)  # fmt: skip
from oracles import Oracle
from test_attention import parted
from torch import Tensor

import circuitkit as ck
from circuitkit.corruptions.constants import mean, zero
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.record import record
from circuitkit.errors import (
    ArgumentError,
    CircuitError,
    DataError,
    NodeNameError,
    OutputError,
    UnsupportedModelError,
)
from circuitkit.evaluation.heads.describe import describe_heads
from circuitkit.evaluation.heads.descriptions import HeadDescriptions
from circuitkit.evaluation.heads.scores import AttentionScores, attention_scores
from circuitkit.models.decoder import SPECIAL, Decoder
from circuitkit.models.loading import MINI
from circuitkit.models.transformer_lens import from_module, from_pretrained
from circuitkit.patching.attention import attention_to

every_family = pytest.mark.parametrize("family", list(FAMILIES))
SHORT = (5, 6, 5, 6)  # shorter than any sliding window
CAP = {"gemma2": 30.0}


@cache
def described(family: str) -> HeadDescriptions:
    return describe_heads(model(family), model(family).wiring.legal, dataset())


@cache
def split(family: str) -> AttentionScores:
    m = model(family)
    return attention_scores(m, m.wiring.legal, dataset(SHORT), at=["subject", "end"])


def uncapped(family: str, logits: Tensor) -> Tensor:
    cap = CAP.get(family)
    return logits.double() if cap is None else cap * torch.atanh(logits.double() / cap)


# -- direct logit attribution ----------------------------------------------------------------------
@every_family
def test_all_writers_and_biases_sum_to_the_logit_difference(family: str) -> None:
    found, batch = described(family), as_batch(dataset())
    logits = model(family).native(batch.clean, batch.mask).logits[range(6), batch.last]
    own = uncapped(family, logits).gather(1, torch.cat([batch.correct, batch.wrong], dim=1))
    assert distance(found.answer, own[:, 0] - own[:, 1]) < 1e-5
    assert distance(found.direct.sum(0) + found.elsewhere, found.answer) < 1e-6
    assert found.capped == (family in CAP)
    assert found.direction == "correct − wrong"


@pytest.mark.parametrize("experts", ["live", "held"])
def test_experts_are_writers_of_the_sum_too(experts: str) -> None:
    m, batch = from_module(build("mixtral"), experts=experts), as_batch(dataset())
    found = describe_heads(m, ["a2.h1"], dataset())
    logits = m.native(batch.clean, batch.mask).logits[range(6), batch.last]
    own = logits.gather(1, torch.cat([batch.correct, batch.wrong], dim=1))
    assert distance(found.answer, own[:, 0] - own[:, 1]) < 1e-5
    assert attention_scores(m, "a2.h1", dataset(SHORT), at="subject").writers[-2].startswith("m1.e")


def final_norm(family: str, module: Any, final: Tensor) -> Tensor:
    """What the final norm multiplies with, worked out by hand [b, d]; GPT-2 centres before."""
    if family == "gpt2":
        norm = module.transformer.ln_f
        return norm.weight / (final.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
    norm = module.model.norm
    weight = norm.weight + ("Gemma" in type(norm).__name__)
    eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    return weight / (final.square().mean(-1, keepdim=True) + eps).sqrt()


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "olmo2"])
def test_a_head_adds_what_is_worked_out_by_hand(family: str) -> None:
    """Its output by hooks, through the norm at the run's scale, and the unembedding."""
    module, batch, rows = pristine(family), as_batch(dataset()), range(6)
    m = model(family)
    written = Oracle(module, m.wiring).plain(batch.clean, batch.mask).writers
    final = m.native(batch.clean, batch.mask).final[rows, batch.last]
    scale = final_norm(family, module, final)
    matrix = module.lm_head.weight
    towards = matrix[batch.correct[:, 0]] - matrix[batch.wrong[:, 0]]
    found = described(family)
    expected = []
    for name in found.heads:
        own = written[name][rows, batch.last]
        own = own - own.mean(-1, keepdim=True) if family == "gpt2" else own
        expected.append((own * scale * towards).sum(-1))
    assert distance(found.direct, torch.stack(expected)) < 1e-5


def test_several_answers_count_by_their_mean_and_none_as_all_tokens() -> None:
    m, many, none = model("llama"), dataset(correct=2, wrong=3), dataset(wrong=0)
    for data in (many, none):
        found, batch = describe_heads(m, "a1.h1", data), as_batch(data)
        logits = m.native(batch.clean, batch.mask).logits[range(6), batch.last]
        other = logits.mean(1) if data is none else logits.gather(1, batch.wrong).mean(1)
        assert distance(found.answer, logits.gather(1, batch.correct).mean(1) - other) < 1e-5
    assert found.direction == "correct − mean of all tokens"


@cache
def folded() -> tuple[Any, Any]:
    """mini, and TransformerLens's own reading of it with the norms' weights folded in."""
    bridge = from_pretrained(MINI, name="mini").bridge
    bridge.enable_compatibility_mode(disable_warnings=True, fold_value_biases=False)
    return ck.load("mini"), bridge


@torch.no_grad()
def test_it_is_what_transformer_lens_says() -> None:
    m, bridge = folded()
    data = ck.Dataset.of(ck.make_task("ioi", m, n=4), m)
    found = describe_heads(m, m.wiring.legal, data)
    bridge.set_use_attn_result(True)
    for number, example in enumerate(data.examples):
        _, cache = bridge.run_with_cache(torch.tensor([example.clean]))
        stack = cache.stack_head_results(layer=-1, pos_slice=-1)
        right, wrong = torch.tensor(example.correct), torch.tensor(example.wrong)
        theirs = cache.logit_attrs(stack, tokens=right, incorrect_tokens=wrong, pos_slice=-1)
        assert distance(found.direct[:, number], theirs.flatten()[:16]) < 1e-4
    for ours, matrix in ((found.ov, bridge.W_E @ bridge.OV @ bridge.W_U),
                         (found.qk, bridge.W_E @ bridge.QK @ bridge.W_E.T)):  # fmt: skip
        values = matrix.eigenvalues
        theirs = values.sum(-1).real / values.abs().sum(-1)
        assert distance(ours, theirs.flatten()) < 1e-3


# -- what is left of it ----------------------------------------------------------------------------
@pytest.mark.parametrize("carried", ["nothing", "counterfactual"])
@pytest.mark.parametrize("family", ["gpt2", "neox-parallel", "llama", "mixtral"])
def test_what_is_left_is_what_a_native_run_without_the_head_loses(
    family: str, carried: str
) -> None:
    m, batch, rows = model(family), as_batch(dataset()), torch.arange(6)
    corruption = counterfactual if carried == "counterfactual" else None
    found = describe_heads(m, ["a0.h1", "a1.h2", "a2.h3"], dataset(), corruption=corruption)
    plain = m.native(batch.clean, batch.mask)
    other = m.native(batch.corrupt, batch.mask)
    final = plain.final[rows, batch.last]
    direction, _ = m.logit_directions(
        torch.eye(60)[batch.correct[:, 0]] - torch.eye(60)[batch.wrong[:, 0]]
    )
    pull = m.norm(None, final).pull(direction)
    for number, (layer, head) in enumerate([(0, 1), (1, 2), (2, 3)]):
        noise = torch.zeros_like(plain.z[layer][:, :, head])
        noise[rows, batch.last] = -plain.z[layer][rows, batch.last, head]
        if corruption:
            noise[rows, batch.last] += other.z[layer][rows, batch.last, head]
        without = m.native(batch.clean, batch.mask, noise=(layer, head, noise))
        lost = final - without.final[rows, batch.last]
        own = -(noise @ m.layers[layer].out[head])[rows, batch.last]
        retained = (lost * own).sum(-1) / own.square().sum(-1)
        assert distance(found.retained[number], retained) < 1e-4
        assert distance(found.total[number], (lost * pull).sum(-1)) < 1e-4
    assert found.removed == carried
    assert np.abs(found.retained - 1).max() > 0.01


def test_nothing_in_its_place_is_the_zero_corruption_and_draws_are_averaged() -> None:
    m = model("qwen2")
    plain, other = (describe_heads(m, "a1.h2", dataset(), corruption=c) for c in (None, zero))
    assert distance(other.total, plain.total) < 1e-6
    assert distance(other.retained, plain.retained) < 1e-6

    def twice(*given: Any) -> Any:
        one, two = mean(*given), counterfactual(*given)
        return lambda batch: [*one(batch), *two(batch)]

    each = [describe_heads(m, "a1.h2", dataset(), corruption=c).total
            for c in (mean, counterfactual)]  # fmt: skip
    both = describe_heads(m, "a1.h2", dataset(), corruption=twice).total
    assert distance(both, np.mean(each, axis=0)) < 1e-6


def test_a_head_behind_which_nothing_comes_keeps_all() -> None:
    found = describe_heads(model("attention-only"), ["a2.h0", "a2.h3"], dataset())
    assert np.abs(found.retained - 1).max() < 1e-5
    assert distance(found.total, found.direct) < 1e-5
    assert distance(found.corrected, found.direct) < 1e-5


def by_hand(values: Tensor, outs: Tensor, mlps: bool = False) -> Decoder:
    """Two layers of one head on one-hot tokens, which look at their own token alone (prompts have
    one), with these weights [2, d, e] and [2, e, d]; every token is written in a direction of its
    own, and read off there."""
    words, d = (*SPECIAL, "a", "b", "c", "d"), 6
    none = torch.zeros(2, 1, d, 6)
    return Decoder(
        "by hand", words, torch.eye(d), torch.zeros(4, d), none, none, values[:, None],
        outs[:, None], torch.zeros(2, d, 1), torch.zeros(2, 1, d), torch.eye(d), {},
    )  # fmt: skip


ONE_TOKEN = Dataset((Example((2,), (3,), (2,), (3,), {"end": (0, 1)}),), batch_size=1)


def test_an_output_that_a_later_head_erases_counts_for_nothing() -> None:
    """The first head writes the token once more, and the second head takes both off."""
    units = torch.eye(6)
    m = by_hand(torch.stack([units, units]), torch.stack([units, -units]))
    found = describe_heads(m, ["a0.h0", "a1.h0"], ONE_TOKEN)
    assert found.direct.tolist() == [[1], [-2]]
    assert found.retained.tolist() == [[0], [1]]
    assert found.corrected.tolist() == [[0], [-2]]
    assert found.total.tolist() == [[0], [-2]]


def test_what_heads_copy_is_seen_in_tokens_and_eigenvalues() -> None:
    units = torch.eye(6)
    turned = units.roll(1, 0)
    m = by_hand(torch.stack([units, units]), torch.stack([units, -units]))
    found = describe_heads(m, ["a0.h0", "a1.h0"], ONE_TOKEN)
    # of six logits, less their mean, five are in the eigenvalues
    assert found.ov == pytest.approx([1, -1])
    assert found.copying.tolist() == [1, 0]
    assert found.suppressing.tolist() == [0, 1]
    assert np.isnan(found.qk).all()  # its weights are zero
    m = by_hand(torch.stack([units, units]), torch.stack([turned, turned]))
    found = describe_heads(m, ["a0.h0"], ONE_TOKEN)
    assert found.ov == pytest.approx([-1 / 5], abs=1e-6)  # 6th roots of 1, but not 1 itself


# -- copying and matching --------------------------------------------------------------------------
def embedding(family: str) -> Tensor:
    m = model(family)
    return m.embed_tokens(torch.arange(60)[:, None])[:, 0].double()


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "gemma2", "gemma3", "olmo2"])
def test_the_eigenvalues_are_those_of_the_whole_circuits(family: str) -> None:
    """From all tokens to all tokens, [vocab, vocab], as the plain module's weights say."""
    m, module, found = model(family), pristine(family), described(family)
    block = Oracle(module, m.wiring).blocks
    tokens, unembed = embedding(family), module.lm_head.weight.double().T
    unembed = unembed - unembed.mean(1, keepdim=True)
    ones = torch.ones(1, 32)
    for number, head in enumerate(found.heads):
        layer, group = head.layer, head.head * m.wiring.groups // 4
        norm = m.layers[layer].ln1.weight.double()
        read = tokens - tokens.mean(1, keepdim=True) if family == "gpt2" else tokens
        read = read * norm
        value, query, key = (m.layers[layer].weights[p].double() for p in "vqk")
        out = block[layer].out[head.head].double()
        if block[layer].post_weight is not None:
            out = out * block[layer].post_weight.double()
        out = out - out.mean(1, keepdim=True) if family == "gpt2" else out
        last = final_norm(family, module, ones).double() * ones.square().mean().sqrt()
        if family == "gpt2":
            last = module.transformer.ln_f.weight.double()[None]
        whole = read @ value[group] @ (out * last) @ unembed
        values = torch.linalg.eigvals(whole.detach())
        score = values.sum().real / values.abs().sum()
        assert float(score) == pytest.approx(found.ov[number], abs=1e-4)
        q, k = read @ query[head.head], read @ key[group]
        if hasattr(module, "model") and hasattr(module.model.layers[layer].self_attn, "q_norm"):
            attn, gemma = module.model.layers[layer].self_attn, family == "gemma3"
            over_q, over_k = (n.weight.double() + gemma for n in (attn.q_norm, attn.k_norm))
            wide = over_q.numel() > q.shape[1]
            q = q * (over_q.view(4, -1)[head.head] if wide else over_q)
            k = k * (over_k.view(2, -1)[group] if wide else over_k)
        values = torch.linalg.eigvals((q @ k.T).detach())
        score = values.sum().real / values.abs().sum()
        assert float(score) == pytest.approx(found.qk[number], abs=1e-4)


def copy_data() -> Dataset:
    """Prompts whose second token is the correct answer, and the third the wrong one."""
    made = (replace(e, correct=(e.clean[1],), wrong=(e.clean[2],)) for e in dataset().examples)
    return replace(dataset(), examples=tuple(made))


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gemma"])
def test_the_copying_score_is_that_of_wang_et_al(family: str) -> None:
    """Their loop: every answer in a prompt, from what stands there behind the first layer, through
    one head, the final norm and the unembedding; the best five of the logits."""
    m, module, data = model(family), pristine(family), copy_data()
    found = describe_heads(m, ["a1.h0", "a2.h3"], data)
    assert found.copied == "answers in the prompts"
    hits: dict[str, list[list[float]]] = {"a1.h0": [], "a2.h3": []}
    for example in data.examples:
        ids = torch.tensor([example.clean])
        read = m.native(ids, torch.ones_like(ids).bool()).attn_in[1][0]
        for position, token in enumerate(example.clean):
            if token not in example.correct + example.wrong:
                continue
            for layer, head in ((1, 0), (2, 3)):
                parts = m.layers[layer]
                group = head * m.wiring.groups // 4
                bias = 0 if parts.biases["v"] is None else parts.biases["v"][group]
                value = parts.ln1.module(read[position]) @ parts.weights["v"][group] + bias
                own = []
                for sign in (1, -1):
                    final = module.transformer.ln_f if family == "gpt2" else module.model.norm
                    logits = module.lm_head(final(sign * value @ parts.out[head]))
                    own.append(float(token in logits.topk(5).indices))
                hits[f"a{layer}.h{head}"].append(own)
    expected = np.array([np.mean(own, axis=0) for own in hits.values()])
    assert distance(np.stack([found.copying, found.suppressing], axis=1), expected) < 1e-9


def test_without_answers_in_the_prompts_all_their_tokens_are_copied() -> None:
    examples = [replace(e, correct=(58,), wrong=(59,)) for e in dataset().examples
                if not {58, 59} & set(e.clean)]  # fmt: skip
    found = describe_heads(model("gpt2"), "a1.h1", replace(dataset(), examples=tuple(examples)))
    assert found.copied == "all tokens of the prompts"
    count = sum(len(e.clean) for e in examples)
    assert found.copying[0] * count == pytest.approx(round(found.copying[0] * count))


# -- the table -------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["gpt2", "llama", "olmo2"])
def test_it_does_not_depend_on_batches_or_padding(family: str) -> None:
    data = copy_data()
    one = describe_heads(model(family), model(family).wiring.legal, data).to_frame()
    other = replace(data, batch_size=2, padding="left")
    two = describe_heads(model(family), model(family).wiring.legal, other).to_frame()
    assert list(one) == list(two)
    numbers = one.columns[1:]
    assert distance(two[numbers].to_numpy(), one[numbers].to_numpy()) < 1e-4


def test_attention_is_that_of_attention_to() -> None:
    m, names = model("llama"), ["a0.h1", "a2.h2"]
    data = parted((7, 5, 6))
    found = describe_heads(m, names, data, at=["rest", "first"], query="early")
    paid = attention_to(m, names, data, at=["rest", "first"], query="early").values
    assert np.array_equal(found.attention, paid)
    assert found.to_frame()["to first"].tolist() == pytest.approx(paid[:, 1].mean(-1))
    assert describe_heads(m, names, data, at=()).attention.shape == (2, 0, 3)
    early = describe_heads(m, names, data, query="early")
    assert early.spans == ("first", "subject", "early")  # what lies behind the query is left out


def test_heads_are_those_of_a_circuit_with_their_roles() -> None:
    m = model("gpt2")
    circuit = ck.Scores(m.wiring, np.random.default_rng(0).standard_normal(m.wiring.shape)).top(9)
    heads = sorted({n for n, _ in circuit.edges if n.startswith("a") and n.count(".") == 1},
                   key=m.wiring.writer.get)  # fmt: skip
    heads = [n for n in heads if any("weight" in d for *_, d in circuit.out_edges(n, data=True))]
    circuit.nodes[heads[0]]["role"] = "mover"
    found = describe_heads(m, circuit, dataset())
    assert list(found.heads) == heads
    assert found.to_frame()["role"].tolist() == ["mover"] + [""] * (len(heads) - 1)
    assert list(described("gpt2").to_frame())[:3] == ["head", "direct", "error"]
    assert len(describe_heads(m, ["a2.h1", "a0.h0", "a2.h1"], dataset())) == 2


def test_results_show_themselves(tmp_path: Path) -> None:
    found, why = described("gpt2"), split("gpt2")
    assert "12 heads of gpt2, 6 examples" in str(found)
    assert len(str(found).splitlines()) == len(str(why).splitlines()) == 1
    assert all(name in repr(found) for name in (*found.heads, "retained", "subject"))
    assert "<table" in found._repr_html_()
    assert "the strongest parts" in repr(why)
    assert "bias" in why._repr_html_() or "m0" in why._repr_html_()
    assert "<svg" in found.plot().svg()
    found.draw(tmp_path / "heads.svg")
    attention_scores(model("gpt2"), "a1.h0", dataset(SHORT)).draw(tmp_path / "why.png")
    assert {path.name for path in tmp_path.iterdir()} == {"heads.svg", "why.png"}
    with pytest.raises(OutputError):
        found.draw(tmp_path / "heads.txt")
    capped = (repr(described("gemma2")), repr(split("gemma2")))
    assert all("before the model's cap" in text for text in capped)


# -- attention scores ------------------------------------------------------------------------------
def to_spans(scores: Tensor, data: Dataset, spans: Sequence[str]) -> np.ndarray:
    """The mean score from each prompt's last token to a span [heads, spans, examples]."""
    found = [
        [scores[i, :, len(e.clean) - 1, slice(*e.spans[span])].mean(-1) for span in spans]
        for i, e in enumerate(data.examples)
    ]
    return np.stack([torch.stack(own).double().numpy().T for own in found], axis=-1)


def own_scores(
    m: Inspectable, data: Dataset, spans: Sequence[str] = ("subject", "end")
) -> np.ndarray:
    """What the model's own attention gives its softmax."""
    batch = as_batch(data)
    context = m.start(batch.clean, batch.mask)
    run, found = record(m, context), []
    for layer in range(m.wiring.layers):
        q, k, _ = m.project(layer, run.reads[m.wiring.attention(layer).index])
        found.append(to_spans(m.scores(context, layer, q, k), data, spans))
    return np.concatenate(found)


@every_family
def test_the_parts_sum_to_the_score(family: str) -> None:
    found, own = split(family), own_scores(model(family), dataset(SHORT))
    total = found.total
    if family in CAP:  # Gemma 2 caps scores at 50: one token's, as the spans' mean is not capped
        total, own, found = total[:, 1:], 50 * np.arctanh(own[:, 1:] / 50), found
    assert distance(total, own) < 1e-5
    assert found.capped == (family in CAP)
    assert distance(found.values.sum((2, 3)), found.total.mean(-1)) < 1e-9
    assert distance(found.values.sum(3), found.by_query.mean(-1)) < 1e-9
    assert distance(found.values.sum(2), found.by_key.mean(-1)) < 1e-9
    assert "position" not in found.writers


@pytest.mark.parametrize("family", ["gpt2", "neox-parallel", "neox-serial", "attention-only"])
def test_in_double_precision_they_do_so_to_ten_digits(family: str) -> None:
    """(In other families norms or rotary angles are in single precision.)"""
    m, data = exactly(family), dataset(SHORT)
    found = attention_scores(m, m.wiring.legal, data, at=["subject", "end"])
    assert distance(found.total, own_scores(m, data)) < 1e-10


@pytest.mark.parametrize(
    "family", ["gpt2", "neox-parallel", "llama", "smollm3", "gemma2", "gemma3", "olmo2", "gpt-oss"]
)
def test_the_pattern_of_the_plain_module_follows_from_them(family: str) -> None:
    """The logarithm of the attention to one token less that to another is the difference of their
    scores."""
    m, data = model(family), dataset(SHORT)
    spans = {"one": (1, 2), "two": (3, 4)}
    made = [replace(e, spans={**spans, "end": e.spans["end"]}) for e in data.examples]
    data = replace(data, examples=tuple(made))
    scores = attention_scores(m, m.wiring.legal, data, at=["one", "two"]).total
    scores = 50 * np.tanh(scores / 50) if family == "gemma2" else scores
    batch = as_batch(data)
    with torch.no_grad():
        patterns = pristine(family)(
            input_ids=batch.clean, attention_mask=batch.mask.long(), output_attentions=True,
            position_ids=(batch.mask.long().cumsum(-1) - 1).clamp(min=0),
        ).attentions  # fmt: skip
    rows = torch.stack([own[range(4), :, batch.last] for own in patterns]).log()
    expected = (rows[..., 1] - rows[..., 3]).transpose(1, 2).flatten(0, 1)
    assert distance(scores[:, 0] - scores[:, 1], expected) < 1e-4


def rotated(x: Tensor, position: int, head_dim: int) -> Tensor:
    """Llama's rotary embedding of a query or key at a position, written out."""
    half = head_dim // 2
    angle = position / 10000.0 ** (torch.arange(half) / half)
    one, two = x[..., :half], x[..., half:]
    turned = (one * angle.cos() - two * angle.sin(), two * angle.cos() + one * angle.sin())
    return torch.cat(turned, dim=-1)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_part_is_what_is_worked_out_by_hand(family: str) -> None:
    """Each writer's output by hooks, through the norm at the run's scale, the projections, and the
    rotation; for one head of the last layer, every pair of writers."""
    m, data, module = model(family), dataset((6, 6), batch_size=2), pristine(family)
    found = attention_scores(m, ["a2.h3"], data, at="subject")
    batch = as_batch(data)
    oracle = Oracle(module, m.wiring)
    written = oracle.plain(batch.clean, batch.mask).writers
    read = m.native(batch.clean, batch.mask).attn_in[2]
    weights, norm = m.layers[2].weights, oracle.blocks[2].ln1
    if family == "gpt2":
        scale = norm.weight / (read.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
    else:
        scale = norm.weight / (read.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
    group = 3 * m.wiring.groups // 4
    sides: list[list[Tensor]] = [[], []]
    for name in found.writers[:-1]:
        part = written[name]
        part = part - part.mean(-1, keepdim=True) if family == "gpt2" else part
        q, k = part * scale @ weights["q"][3], part * scale @ weights["k"][group]
        if family == "llama":
            q, k = (torch.stack([rotated(x[:, p], p, 8) for p in range(6)], dim=1) for x in (q, k))
        sides[0].append(q[:, 5])
        sides[1].append(k[:, 1:3].mean(1))
    queries, keys = (torch.stack(own) for own in sides)
    expected = torch.einsum("qbe,kbe->qk", queries, keys) / 8**0.5 / 2
    assert distance(found.values[0, 0, :-1, :-1], expected) < 1e-5


def test_the_biases_part_does_not_move_with_the_prompt_where_no_norm_scales_it() -> None:
    found = attention_scores(model("qwen2"), ["a0.h0"], dataset(SHORT), at="end")
    bias = found.writers.index("bias")
    assert found.heard == (1,)
    assert np.ptp(found.values[0, 0, bias, bias]) == 0
    assert found.writers == (model("qwen2").wiring.writers[0], "bias")


class Tilted(Decoder):
    """A decoder that adds to its scores what depends on the distance alone, as ALiBi does."""

    def scores(self, *given: Any, **options: Any) -> Tensor:
        found = super().scores(*given, **options)
        at = torch.arange(found.shape[-1])
        return found + 0.5 * (at[None] - at[:, None])


def test_what_positions_add_to_scores_is_a_part_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    made = by_hand(torch.randn(2, 6, 6, generator=generator), torch.randn(2, 6, 6))
    weights = {
        name: torch.randn(w.shape, generator=generator) for name, w in made.tensors().items()
    }
    m = Tilted("tilted", made.words, roles={}, **weights)
    spans = {"one": (0, 1), "end": (2, 3)}
    data = Dataset((Example((2, 3, 4), (3, 2, 4), (2,), (3,), spans),), batch_size=1)
    found = attention_scores(m, ["a1.h0"], data, at=["one", "end"])
    assert found.writers[-2:] == ("bias", "position")
    assert found.values[0, :, -1].sum(-1) == pytest.approx([-1, 0])
    assert found.by_key[0, :, -1, 0] == pytest.approx([-1, 0])
    batch = as_batch(data)
    context = m.start(batch.clean, batch.mask)
    q, k, _ = m.project(1, record(m, context).reads[2])
    own = to_spans(m.scores(context, 1, q, k), data, ("one", "end"))
    assert distance(found.total, own) < 1e-5
    assert "position" in found.to_frame("key")["key_writer"].tolist()


def test_scores_do_not_depend_on_batches_padding_or_how_many_run_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    m, data = model("qwen3"), dataset((5, 6, 4))
    wide = attention_scores(m, ["a2.h1", "a1.h3"], data, at=["subject"])
    other = replace(data, batch_size=2, padding="left")
    monkeypatch.setattr("circuitkit.evaluation.heads.splitting.VALUES", 4000)
    narrow = attention_scores(m, ["a2.h1", "a1.h3"], other, at=["subject"])
    assert distance(narrow.values, wide.values) < 1e-4
    assert distance(narrow.by_key, wide.by_key) < 1e-4


def test_frames_hold_every_pair_that_a_head_hears() -> None:
    found, m = split("neox-parallel"), model("neox-parallel")
    frame = found.to_frame()
    for layer, heard in enumerate((1, 6, 11)):
        own = frame[frame["head"] == f"a{layer}.h0"]
        assert len(own) == 2 * (heard + 1) ** 2
        assert found.upstream(f"a{layer}.h0") == (*m.wiring.writers[:heard], "bias")
    sums = frame.groupby(["head", "key"], sort=False)["score"].sum().to_numpy()
    assert distance(sums, found.total.mean(-1).flatten()) < 1e-9
    side = found.to_frame("query").groupby(["head", "key"], sort=False)["score"].sum().to_numpy()
    assert distance(side, sums) < 1e-9
    assert list(found.to_frame("query"))[3:] == ["query_writer", "score", "error"]
    with pytest.raises(CircuitError, match="'both' is not a side"):
        found.to_frame("both")


def test_a_figure_shows_the_strongest_writers_and_sums_the_others() -> None:
    found = split("gpt2")
    (panel,) = found.plot("a2.h1", "end", writers=3).figures
    assert np.nansum(panel.table) == pytest.approx(found.total[9, 1].mean())
    assert panel.table.shape == (4, 4)
    assert panel.row_labels[-1] == panel.column_labels[-1] == "others"
    with pytest.raises(CircuitError, match="24 heat maps"):
        found.plot()
    with pytest.raises(CircuitError, match=r"no scores of 'a9\.h9'"):
        found.plot("a9.h9")


# -- what is refused -------------------------------------------------------------------------------
@pytest.mark.parametrize("read", [describe_heads, attention_scores])
def test_what_is_not_there_is_refused(read: Any) -> None:
    m, data = model("gpt2"), dataset(SHORT)
    for name in ("a0.h4", "m1", "a1.h0.q"):
        with pytest.raises(CircuitError, match=f"'{name}' is not a head"):
            read(m, ["a0.h0", name], data)
    with pytest.raises(NodeNameError, match="'mover'"):
        read(m, ["a0.h0", "mover"], data)
    with pytest.raises(CircuitError, match="no heads"):
        read(m, [], data)
    with pytest.raises(CircuitError, match="has no heads"):
        read(m, np.zeros(m.wiring.shape, bool), data)
    with pytest.raises(CircuitError, match="a circuit of this model"):
        read(m, model("llama").wiring.legal, data)
    with pytest.raises(DataError, match="no span 'IO'"):
        read(m, "a0.h0", data, at="IO")
    with pytest.raises(DataError, match="no span 'IO'"):
        read(m, "a0.h0", data, query="IO")


@pytest.mark.unchecked
@pytest.mark.parametrize("read", [describe_heads, attention_scores])
def test_another_order_is_refused(read: Any) -> None:
    m, data = model("gpt2"), dataset(SHORT)
    with pytest.raises(ArgumentError, match="circuit is a Dataset"):
        read(m, data, ["a0.h0"])
    with pytest.raises(ArgumentError, match="not a loaded model"):
        read(["a0.h0"], m, data)


def test_a_span_that_a_head_does_not_see_has_no_score() -> None:
    with pytest.raises(DataError, match=r"does not see all of the span 'end'"):
        attention_scores(model("gpt2"), "a1.h1", dataset(SHORT), at="end", query="subject")
    with pytest.raises(DataError, match=r"'subject'.*sliding window"):
        attention_scores(model("mistral"), "a1.h1", dataset((9, 9)), at="subject")


def test_scores_that_are_not_such_a_sum_are_refused() -> None:
    torch.manual_seed(0)
    module = _hf("OlmoForCausalLM", **GROUPED, clip_qkv=0.5)()
    _stir(module)
    with pytest.raises(UnsupportedModelError, match="not linear in what"):
        attention_scores(from_module(module, name="olmo"), "a0.h0", dataset(SHORT), at="subject")
    module = _hf("StableLmForCausalLM", **GROUPED, qk_layernorm=True)()
    m = from_module(module, name="stablelm")
    with pytest.raises(UnsupportedModelError, match="not one norm for all heads"):
        attention_scores(m, "a0.h0", dataset(SHORT), at="subject")
    found = describe_heads(m, "a0.h0", dataset(SHORT))
    assert np.isnan(found.qk).all()
    assert not np.isnan(found.ov).any()


def test_nothing_changes_the_model() -> None:
    m = from_module(build("gemma3"), name="gemma3")
    before = {name: w.clone() for name, w in m.bridge.original_model.state_dict().items()}
    hooks = [len(part._forward_pre_hooks) for part in m.bridge.modules()]
    describe_heads(m, "a1.h1", dataset(SHORT))
    attention_scores(m, "a1.h1", dataset(SHORT))
    after = m.bridge.original_model.state_dict()
    assert all(torch.equal(after[name], w) for name, w in before.items())
    assert [len(part._forward_pre_hooks) for part in m.bridge.modules()] == hooks
    batch = as_batch(dataset(SHORT))
    final = record(m, m.start(batch.clean, batch.mask)).final[range(4), batch.last]
    assert (
        distance(m.unembed(final), m.native(batch.clean, batch.mask).logits[range(4), batch.last])
        < 1e-5
    )


# -- models whose heads are known ------------------------------------------------------------------
def test_minis_heads_do_what_is_known_of_such_heads() -> None:
    """A name mover copies, looks at the indirect object, and does so because of a head that looks
    at the subject and suppresses it (Wang et al. 2023)."""
    m = ck.load("mini")
    data = ck.Dataset.of(ck.make_task("ioi", m, n=24), m)
    found = describe_heads(m, ["a3.h2", "a2.h2"], data)
    frame = found.to_frame().set_index("head")
    mover, inhibitor = frame.loc["a3.h2"], frame.loc["a2.h2"]
    assert mover["to IO"] > 0.8
    assert mover["copying"] > 0.9
    assert mover["ov"] > 0.8
    assert inhibitor["to S2"] > 0.95
    assert inhibitor["suppressing"] > 0.9
    assert inhibitor["ov"] < -0.8
    assert (frame["direct"] > 1).all()
    assert inhibitor["total"] > 2 * inhibitor["direct"]  # it helps by the mover, too
    why = attention_scores(m, ["a3.h2"], data, at=["IO", "S1"])
    side = why.to_frame("query").pivot(index="query_writer", columns="key", values="score")
    assert (side["IO"] - side["S1"]).idxmax() == "a2.h2"


def test_names_stand_for_prompts_corruptions_and_heads() -> None:
    m = ck.load("mini")
    task = ck.make_task("ioi", m, n=4)
    data = ck.Dataset.of(task, m)
    named = ck.describe_heads(m, "2.2", task, corruption="mean")
    other = ck.describe_heads(m, ["a2.h2"], data, corruption=mean)
    assert named.to_frame().equals(other.to_frame())
    assert named.removed == "mean"
    assert ck.attention_scores(m, "2.2", "ioi", at="S2").total.shape == (1, 1, 64)


def test_a_compiled_model_can_be_read() -> None:
    program = ck.rasp.named("indirect_object")
    m, data = ck.rasp.compile_program(program), program.data(12)
    heads = [name for name in m.wiring.writers if name.is_head]
    found, batch = describe_heads(m, heads, data), as_batch(data)
    logits = m.native(batch.clean, batch.mask).logits[range(len(data)), batch.last]
    own = logits.gather(1, torch.cat([batch.correct, batch.wrong], dim=1))
    assert distance(found.answer, own[:, 0] - own[:, 1:].mean(1)) < 1e-5
    assert distance(found.direct.sum(0) + found.elsewhere, found.answer) < 1e-6
    why = attention_scores(m, heads, data, at="end")
    assert distance(why.total, own_scores(m, data, ["end"])) < 1e-5
