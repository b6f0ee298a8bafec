"""The masked run done by hand: hooks on a plain Hugging Face module, and a loop over edges.

It shares nothing with ``circuitkit.engine`` or TransformerLens. One native forward runs; hooks
replace what every projection gives and every MLP and the final norm read by what the mask says, so
that embedding, rotary angles, masks, soft-caps and logits are the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
import torch
from families import port
from torch import Tensor, nn

from circuitkit.data.batches import Batch
from circuitkit.graph.wiring import Wiring

Keep = Mapping[tuple[str, str], float]


@dataclass
class Block:
    """One block's parts: norms may be missing; ``split`` cuts a projection's output by port, and
    ``projections`` are the modules whose outputs hold the ports q, k and v."""

    entry: nn.Module
    ln1: Callable[[Tensor], Tensor]
    projections: dict[str, nn.Module]
    o: nn.Module
    out: Tensor  # [heads, e, d]
    post_weight: Tensor | None  # of an RMS norm after attention
    eps: float
    ln2: Callable[[Tensor], Tensor]
    mlp: nn.Module | None
    post_mlp: Callable[[Tensor], Tensor]
    mlp_end: nn.Module | None = None  # where the MLP is two modules of the block: the second


def _same(x: Tensor) -> Tensor:
    return x


class Oracle:
    """A plain module, and the masked run of it by hand."""

    def __init__(self, module: Any, wiring: Wiring) -> None:
        self.module, self.wiring = module, wiring
        self.live: set[str] | None = None
        config = getattr(module, "config", None) or module.cfg
        self.fused = ""
        self.parallel = any(
            getattr(config, flag, False) for flag in ("use_parallel_residual", "parallel_attn")
        )
        if hasattr(module, "transformer"):
            self.fused, self.final = "gpt2", module.transformer.ln_f
            self.blocks = [self._transformer(b) for b in module.transformer.h]
        elif hasattr(getattr(module, "model", None), "decoder"):
            self.final = module.model.decoder.final_layer_norm
            self.blocks = [self._opt(b) for b in module.model.decoder.layers]
        elif hasattr(module, "gpt_neox"):
            self.fused, self.final = "neox", module.gpt_neox.final_layer_norm
            self.blocks = [self._neox(b) for b in module.gpt_neox.layers]
        elif hasattr(module, "tok_embed"):
            self.final = module.ln_out
            self.blocks = [self._native(b) for b in module.layers]
        else:
            self.final = module.model.norm
            self.blocks = [self._llama(b) for b in module.model.layers]
        self.width = self.blocks[0].out.shape[1]

    # -- anatomy -----------------------------------------------------------------------------------
    def _out(self, weight: Tensor) -> Tensor:
        """[d, heads × e] as [heads, e, d]."""
        return weight.detach().T.reshape(self.wiring.heads, -1, weight.shape[0])

    def _transformer(self, b: Any) -> Block:
        if hasattr(b, "self_attention"):
            return self._falcon(b)
        return self._neo(b) if hasattr(b.attn, "attention") else self._gpt2(b)

    def _falcon(self, b: Any) -> Block:
        attn, norm = b.self_attention, b.input_layernorm
        parts, out = {"qkv": attn.query_key_value}, self._out(attn.dense.weight)
        return Block(b, norm, parts, attn.dense, out, None, 0, norm, b.mlp, _same)

    def _neo(self, b: Any) -> Block:
        attn = b.attn.attention
        parts = {p: getattr(attn, f"{p}_proj") for p in "qkv"}
        out = self._out(attn.out_proj.weight)
        return Block(b, b.ln_1, parts, attn.out_proj, out, None, 0, b.ln_2, b.mlp, _same)

    def _opt(self, b: Any) -> Block:
        attn = b.self_attn
        parts = {p: getattr(attn, f"{p}_proj") for p in "qkv"}
        return Block(
            b, b.self_attn_layer_norm, parts, attn.out_proj, self._out(attn.out_proj.weight), None,
            0, b.final_layer_norm, b.fc1, _same, b.fc2,
        )  # fmt: skip

    def _gpt2(self, b: Any) -> Block:
        out = self._out(b.attn.c_proj.weight.T)
        parts = {"qkv": b.attn.c_attn}
        return Block(b, b.ln_1, parts, b.attn.c_proj, out, None, 0, b.ln_2, b.mlp, _same)

    def _neox(self, b: Any) -> Block:
        attn, out = b.attention, self._out(b.attention.dense.weight)
        parts = {"qkv": attn.query_key_value}
        ln2 = b.post_attention_layernorm
        return Block(b, b.input_layernorm, parts, attn.dense, out, None, 0, ln2, b.mlp, _same)

    def _native(self, b: Any) -> Block:
        parts = {p: getattr(b.attn, p) for p in "qkv"}
        ln2, mlp = getattr(b, "ln2", _same), getattr(b, "mlp", None)
        out = self._out(b.attn.o.weight)
        return Block(b, b.ln1, parts, b.attn.o, out, None, 0, ln2, mlp, _same)

    def _llama(self, b: Any) -> Block:
        attn = b.self_attn
        parts = {p: getattr(attn, f"{p}_proj") for p in "qkv"}
        post = hasattr(b, "post_feedforward_layernorm")
        weight, eps = None, 0.0
        if post:
            norm = b.post_attention_layernorm
            weight = norm.weight.detach() + ("Gemma" in type(norm).__name__)
            eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
        scale = getattr(b, "residual_multiplier", 1.0)
        before = "pre_feedforward_layernorm" if post else "post_attention_layernorm"
        return Block(
            b, getattr(b, "input_layernorm", _same), parts, attn.o_proj,
            self._out(attn.o_proj.weight) * scale, weight, eps, getattr(b, before, _same), b.mlp,
            b.post_feedforward_layernorm if post else lambda x: x * scale,
        )  # fmt: skip

    @property
    def post_norm(self) -> bool:
        """Whether a norm follows what the heads of a layer write."""
        return self.blocks[0].post_weight is not None

    @property
    def coupled(self) -> bool:
        """Whether the heads of a layer are coupled by a norm: over what they write, or over all
        their queries."""
        norm = getattr(getattr(self.blocks[0].entry, "self_attn", None), "q_norm", None)
        over_all = norm is not None and norm.weight.numel() == self.wiring.heads * self.width
        return over_all or self.post_norm

    def constant(self, layer: int) -> Tensor | float:
        """The output bias."""
        bias = getattr(self.blocks[layer].o, "bias", None)
        return 0.0 if bias is None else bias.detach()

    # -- plain forwards ----------------------------------------------------------------------------
    def logits(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The module's own logits at all positions."""
        given: dict[str, Any] = {}
        if mask is not None:
            positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
            given = {"attention_mask": mask.long(), "position_ids": positions}
        with torch.no_grad():
            found = self.module(input_ids=tokens, **given)
        return found if isinstance(found, Tensor) else found.logits

    # -- the masked run ----------------------------------------------------------------------------
    def plain(self, tokens: Tensor, mask: Tensor) -> Written:
        """What every writer writes in a plain run."""
        return self._run(tokens, mask, None, {})[1]

    def run(self, batch: Batch, carried: Written, mask: np.ndarray, *, real: bool = True) -> Tensor:
        """The logits at the answer positions under a mask.

        Where what is carried is one real run and no norm couples the heads, every component is
        computed from what it reads, and the values come out by themselves. Else it matters which
        components are live (by networkx): the others write what they carry.
        """
        w = self.wiring
        keep = {
            (str(w.writers[i]), str(w.readers[j])): float(mask[i, j])
            for i, j in np.argwhere(w.legal)
        }
        self.live = None if real and not self.coupled else self._live(keep)
        if self.live is not None:
            ends = self.live | {"input", "logits"}
            keep = {e: x if {*e} <= ends else 0.0 for e, x in keep.items()}
        logits = self._run(batch.clean, batch.mask, carried, keep)[0]
        return logits[range(len(batch)), batch.last]

    def _live(self, keep: Keep) -> set[str]:
        """The nodes on kept paths from the embedding to the logits."""
        graph = nx.DiGraph([edge for edge, weight in keep.items() if weight])
        graph.add_nodes_from(["input", "logits"])
        for reader in self.wiring.readers:
            graph.add_edges_from((str(reader), h) for h in self._fed(str(reader)))
        return nx.descendants(graph, "input") & nx.ancestors(graph, "logits")

    def _fed(self, port: str) -> list[str]:
        """The heads that a port feeds, from its name."""
        if "." not in port:
            return []
        layer, index, letter = port.split(".")
        size = self.wiring.heads // self.wiring.groups
        number = int(index[1:])
        if letter == "q" or index[0] == "h":
            return [f"{layer}.h{number}"]
        return [f"{layer}.h{h}" for h in range(number * size, (number + 1) * size)]

    def _run(
        self, tokens: Tensor, mask: Tensor, carried: Written | None, keep: Keep
    ) -> tuple[Tensor, Written]:
        state = _State(self, carried, keep)
        with ExitStack() as stack:
            for handle in state.hooks():
                stack.callback(handle.remove)
            return self.logits(tokens, mask), state.written


@dataclass
class Written:
    """What writers wrote, by name; and what heads wrote before a post-norm."""

    writers: dict[str, Tensor]
    raw: dict[str, Tensor]


class _State:
    """The hooks of one run. Without ``carried`` nothing is replaced."""

    def __init__(self, oracle: Oracle, carried: Written | None, keep: Keep) -> None:
        self.oracle, self.carried, self.keep = oracle, carried, keep
        self.written = Written({}, {})
        self.constants: list[Tensor | float] = []

    def residual(self, reader: str) -> Tensor:
        """What a reader reads, edge by edge, of all that is written so far; in a parallel block the
        MLP does not see its layer's heads."""
        unseen = f"a{reader[1:]}.h" if self.oracle.parallel and reader[0] == "m" else "none"
        total: Tensor | float = sum(self.constants)
        for writer, live in self.written.writers.items():
            if writer.startswith(unseen):
                continue
            if self.carried is None:
                total = total + live
            else:
                k = self.keep.get((writer, reader), 0.0)
                total = total + k * live + (1 - k) * self.carried.writers[writer]
        assert isinstance(total, Tensor)
        return total

    def computed(self, writer: str) -> bool:
        """Whether a writer writes what this run makes of it, not what it carries."""
        live = self.oracle.live
        return self.carried is None or live is None or writer in live

    @property
    def rest(self) -> Written:
        """What is carried."""
        assert self.carried is not None
        return self.carried

    def hooks(self) -> Iterator[Any]:
        """Every hook of the run, registered."""
        for i, block in enumerate(self.oracle.blocks):
            if i == 0:
                yield block.entry.register_forward_pre_hook(self._embed, with_kwargs=True)
            for letters, module in block.projections.items():
                yield module.register_forward_hook(self._project(i, letters))
            yield block.o.register_forward_pre_hook(self._heads(i))
            if block.mlp is not None:
                yield block.mlp.register_forward_pre_hook(self._mlp_in(i))
                yield (block.mlp_end or block.mlp).register_forward_hook(self._mlp_out(i))
        yield self.oracle.final.register_forward_pre_hook(self._final)

    def _embed(self, _: Any, args: Any, kwargs: Any) -> None:
        embed = args[0] if args else kwargs["hidden_states"]
        self.written.writers["input"] = embed.detach().clone()

    def _project(self, layer: int, letters: str) -> Any:
        block, wiring = self.oracle.blocks[layer], self.oracle.wiring

        def hook(module: Any, _: Any, out: Tensor) -> Tensor | None:
            if self.carried is None:
                return None
            lead = out.shape[:-1]
            new = torch.full_like(out, torch.nan)
            for letter in letters:
                n = wiring.heads if letter == "q" else wiring.groups
                for index in range(n):
                    x = self.residual(str(port(wiring, layer, letter, index)))
                    given = module.forward(block.ln1(x))
                    place = self._place(letters, letter, index)
                    new.view(*lead, -1)[..., place] = given[..., place]
            assert not new.isnan().any()
            return new

        return hook

    def _place(self, letters: str, letter: str, index: int) -> slice:
        """Where a port's values stand in what its projection gives."""
        e, heads, groups = self.oracle.width, self.oracle.wiring.heads, self.oracle.wiring.groups
        if len(letters) == 1:
            start = index * e
        elif self.oracle.fused == "gpt2":  # all q, all k, all v
            start = ({"q": 0, "k": heads, "v": heads + groups}[letter] + index) * e
        else:  # NeoX: q, k and v of head 0, of head 1, ...
            start = index * 3 * e + "qkv".index(letter) * e
        return slice(start, start + e)

    def _heads(self, layer: int) -> Any:
        block = self.oracle.blocks[layer]

        def hook(_: Any, args: Any) -> None:
            z = args[0].unflatten(-1, (-1, self.oracle.width))
            names = [f"a{layer}.h{h}" for h in range(z.shape[-2])]
            raw = {n: z[..., h, :] @ block.out[h] for h, n in enumerate(names)}
            raw = {n: x if self.computed(n) else self.rest.raw[n] for n, x in raw.items()}
            self.written.raw |= raw
            scale: Tensor | float = 1.0
            if block.post_weight is not None:
                square = torch.stack([*raw.values()]).sum(0).square().mean(-1, keepdim=True)
                scale = block.post_weight / (square + block.eps).sqrt()
            for n, x in raw.items():
                self.written.writers[n] = x * scale if self.computed(n) else self.rest.writers[n]
            self.late = self.oracle.constant(layer)
            if not (self.oracle.parallel and block.mlp is not None):
                self.constants.append(self.late)

        return hook

    def _mlp_in(self, layer: int) -> Any:
        block = self.oracle.blocks[layer]

        def hook(_: Any, args: Any) -> Any:
            if self.carried is None:
                return None
            # OPT's sees the tokens of a batch in one row
            return (block.ln2(self.residual(f"m{layer}")).reshape(args[0].shape), *args[1:])

        return hook

    def _mlp_out(self, layer: int) -> Any:
        block = self.oracle.blocks[layer]

        def hook(_: Any, __: Any, out: Any) -> None:
            given = out[0] if isinstance(out, tuple) else out
            shape = self.written.writers["input"].shape  # Falcon adds to it in place
            name, here = f"m{layer}", block.post_mlp(given.reshape(shape).clone())
            self.written.writers[name] = here if self.computed(name) else self.rest.writers[name]
            if self.oracle.parallel:
                self.constants.append(self.late)

        return hook

    def _final(self, _: Any, args: Any) -> Any:
        return (self.residual("logits"), *args[1:])
