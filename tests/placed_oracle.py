"""The run under a mask over edges between places, done by hand: the attention of a plain module is
run again for each destination, with other keys and values. Slow, and obvious."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from oracles import Oracle, Written, _State
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.graph.places import PlacedMask


class PlacedOracle(Oracle):
    """A plain module, and its runs under masks over edges between places."""

    def placed(self, batch: Batch, carried: Written, mask: PlacedMask, of: Tensor) -> Tensor:
        """The logits at the answer positions."""
        config = getattr(self.module, "config", None)
        if config is not None:
            config.use_cache = False  # attention that runs again would find its keys there
        alive, live = mask.places.alive_and_live(mask, joint=self.coupled)
        state = _Placed(self, carried, mask, alive, torch.from_numpy(live), of)
        with ExitStack() as stack:
            for handle in [*state.hooks(), *state.attentions()]:
                stack.callback(handle.remove)
            logits = self.logits(batch.clean, batch.mask)
        return logits[range(len(batch)), batch.last]


class _Placed(_State):
    def __init__(
        self,
        oracle: PlacedOracle,
        carried: Written,
        mask: PlacedMask,
        alive: PlacedMask,
        live: Tensor,
        of: Tensor,
    ) -> None:
        super().__init__(oracle, carried, {})
        self.places, self.of, self.live = mask.places, of, live
        self.weights = torch.as_tensor(mask.residual * alive.residual).float()
        self.attention = torch.as_tensor(mask.attention * alive.attention).float()
        self.size = oracle.wiring.heads // oracle.wiring.groups
        self.lane: tuple[int, int] | None = None  # (destination, member of each group)
        self.z: Tensor | None = None
        self.given: dict[str, Tensor] = {}

    # -- residual edges ----------------------------------------------------------------------------
    def by_token(self, table: Tensor) -> Tensor:
        """[spans] at every token; 0 on padding."""
        return torch.where(self.of >= 0, table[self.of.clamp(min=0)].float(), 0)[..., None]

    def residual(self, reader: str) -> Tensor:
        wiring = self.oracle.wiring
        unseen = f"a{reader[1:]}.h" if self.oracle.parallel and reader[0] == "m" else "none"
        total = self.base(unseen)
        for writer, live in self.written.writers.items():
            if not writer.startswith(unseen):
                keep = self.weights[wiring.writer[writer], wiring.reader[reader]]
                total = total + self.by_token(keep) * (live - self.rest.writers[writer])
        return total

    def base(self, unseen: str) -> Tensor:
        """What is carried of all that is written so far."""
        own = [x for w, x in self.rest.writers.items()
               if w in self.written.writers and not w.startswith(unseen)]  # fmt: skip
        return sum(self.constants) + torch.stack(own).sum(0)  # type: ignore[no-any-return]

    def alive(self, writer: str) -> Tensor:
        """[b, p, 1]: where a writer is computed."""
        return self.by_token(self.live[self.oracle.wiring.writer[writer]]) > 0

    # -- attention's edges -------------------------------------------------------------------------
    def _project(self, layer: int, letters: str) -> Any:
        block, wiring = self.oracle.blocks[layer], self.oracle.wiring

        def hook(module: Any, _: Any, out: Tensor) -> Tensor:
            lead, new = out.shape[:-1], torch.full_like(out, torch.nan)
            plain = self.once(f"a{layer}.{letters}", module, block.ln1, self.base, "none")
            for letter in letters:
                for index in range(wiring.heads if letter == "q" else wiring.groups):
                    shared = wiring.heads != wiring.groups and letter != "q"
                    name = f"a{layer}.{'g' if shared else 'h'}{index}.{letter}"
                    given = self.once(name, module, block.ln1, self.residual, name)
                    if letter != "q" and self.lane is not None:
                        edge = self.edge(layer, index, letter)
                        given = plain + self.by_token(edge) * (given - plain)
                    place = self._place(letters, letter, index)
                    new.view(*lead, -1)[..., place] = given[..., place]
            assert not new.isnan().any()
            return new

        return hook

    def once(self, key: str, module: Any, norm: Any, read: Any, name: str) -> Tensor:
        """What a projection gives of what is read, which is the same in all lanes."""
        if key not in self.given:
            self.given[key] = module.forward(norm(read(name)))
        return self.given[key]

    def edge(self, layer: int, group: int, letter: str) -> Tensor:
        """[source]: the weights by which this lane mixes a group's keys or values."""
        assert self.lane is not None
        destination, member = self.lane
        heads = [layer * self.oracle.wiring.heads + group * self.size + i for i in range(self.size)]
        tables = self.attention[heads, "kv".index(letter), :, destination]
        alive = self.live[[int(self.places.heads[h]) for h in heads], destination]
        return tables[member] if alive[member] else tables.max(0).values

    def attentions(self) -> Any:
        """The hooks that run attention again and again."""
        for layer, block in enumerate(self.oracle.blocks):
            entry = block.entry
            names = ("attn", "self_attn", "attention", "self_attention")
            module = next(getattr(entry, name) for name in names if hasattr(entry, name))
            yield module.register_forward_hook(self._attend(layer), with_kwargs=True)

    def _attend(self, layer: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, out: Any) -> Any:
            whole = None
            for destination in self.of[self.of >= 0].unique().tolist():
                for member in range(self.size):
                    self.lane, self.z = (destination, member), None
                    module.forward(*args, **kwargs)
                    assert self.z is not None
                    whole = self.z.clone() if whole is None else whole
                    rows, at = (self.of == destination).nonzero(as_tuple=True)
                    heads = range(member, self.z.shape[2], self.size)
                    for head in heads:
                        whole[rows, at, head] = self.z[rows, at, head]
            self.lane, self.z = None, whole
            out = module.forward(*args, **kwargs)
            self.z = None
            return out

        return hook

    def _heads(self, layer: int) -> Any:
        block = self.oracle.blocks[layer]

        def hook(_: Any, args: Any) -> Any:
            if self.lane is not None:  # what this lane computes
                self.z = args[0].unflatten(-1, (-1, self.oracle.width)).detach().clone()
                return None
            if self.z is None:  # the module's own call, whose output is replaced
                return None
            names = [f"a{layer}.h{h}" for h in range(self.z.shape[2])]
            raw = {n: self.z[..., h, :] @ block.out[h] for h, n in enumerate(names)}
            raw = {n: torch.where(self.alive(n), x, self.rest.raw[n]) for n, x in raw.items()}
            self.written.raw |= raw
            scale: Tensor | float = 1.0
            if block.post_weight is not None:
                square = torch.stack([*raw.values()]).sum(0).square().mean(-1, keepdim=True)
                scale = block.post_weight / (square + block.eps).sqrt()
            for n, x in raw.items():
                own = torch.where(self.alive(n), x * scale, self.rest.writers[n])
                self.written.writers[n] = own
            self.late = self.oracle.constant(layer)
            if not (self.oracle.parallel and block.mlp is not None):
                self.constants.append(self.late)
            return None

        return hook

    def _mlp_out(self, layer: int) -> Any:
        block = self.oracle.blocks[layer]

        def hook(_: Any, __: Any, out: Any) -> None:
            given = out[0] if isinstance(out, tuple) else out
            shape, name = self.written.writers["input"].shape, f"m{layer}"
            here = block.post_mlp(given.reshape(shape).clone())
            self.written.writers[name] = torch.where(
                self.alive(name), here, self.rest.writers[name]
            )
            if self.oracle.parallel:
                self.constants.append(self.late)

        return hook
