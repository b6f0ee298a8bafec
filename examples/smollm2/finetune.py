"""Fine-tune SmolLM2-135M on the task ``ioi`` for a few dozen steps, and keep two checkpoints.

``python examples/smollm2/finetune.py DIR`` leaves ``step-10`` and ``step-40`` in ``DIR``, half a
gigabyte each, to follow a circuit from the model before it (``circuitkit track``), and rewrites the
log beside this file. The model learns the name that follows each prompt, and nothing else. No text
that a track of ``ioi`` may measure (its prompts of seed 0) is learned from.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import circuitkit as ck
from circuitkit.data.prompts import Prompt
from circuitkit.engine.model import Model

NAME = "smollm2-135m"
LOG = Path(__file__).with_name("finetune.log")
KEPT = (10, 40)  # steps after which the model is kept
MEASURED = 640  # prompts that a track may draw
HELD_OUT = 32  # of these, those on which the log says how well the model does

log = logging.getLogger("finetune")


def prompts(model: Model) -> tuple[list[Prompt], list[Prompt]]:
    """Those to learn from, and some that are held out."""
    measured = ck.make_task("ioi", model, n=MEASURED, seed=0).prompts
    seen = {text for prompt in measured for text in (prompt.clean, prompt.corrupt)}
    made = ck.make_task("ioi", model, n=MEASURED, seed=1).prompts
    return [one for one in made if one.clean not in seen], [*measured[:HELD_OUT]]


def inputs(tokenizer: transformers.PreTrainedTokenizerBase, batch: list[Prompt]) -> list[Tensor]:
    """The tokens of the prompts, padded on the right, their mask, where each ends, and the tokens
    of the right name and of the other one."""
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    found = tokenizer([one.clean for one in batch], return_tensors="pt", padding=True)
    names = [[one.correct[0] for one in batch], [one.wrong[0] for one in batch]]
    answers = [torch.tensor(tokenizer(own)["input_ids"])[:, -1] for own in names]
    mask = found["attention_mask"]
    return [found["input_ids"], mask, mask.sum(1) - 1, *answers]


def logits(module: torch.nn.Module, ids: Tensor, mask: Tensor, last: Tensor) -> Tensor:
    """The logits of the token that follows each prompt."""
    every: Tensor = module(input_ids=ids, attention_mask=mask).logits
    return every[torch.arange(len(ids)), last]


@torch.no_grad()
def measure(module: torch.nn.Module, own: list[Tensor]) -> tuple[float, float, float]:
    """How often the right name has more logit than the other, by how much in the mean, and its
    probability."""
    *given, correct, wrong = own
    out, rows = logits(module, *given), torch.arange(len(correct))
    gap = out[rows, correct] - out[rows, wrong]
    chance = out.softmax(-1)[rows, correct]
    return (gap > 0).float().mean().item(), gap.mean().item(), chance.mean().item()


def say(step: int, since: float, module: torch.nn.Module, held_out: list[Tensor]) -> None:
    """Log how well the model does on the prompts that are held out."""
    row = (step, time.monotonic() - since, *measure(module, held_out))
    log.info("step %2d, %3.0f s: accuracy %.2f, logit_diff %.2f, p(correct) %.3f", *row)


def main() -> None:
    """Fine-tune, keep two checkpoints, and log what is learned."""
    parser = argparse.ArgumentParser(description="Fine-tune SmolLM2-135M on ioi.")
    parser.add_argument("folder", type=Path, help="where the checkpoints are kept")
    parser.add_argument("--rate", type=float, default=1e-5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--log", type=Path, default=LOG)
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    handlers = [logging.FileHandler(args.log, "w", encoding="utf-8"), logging.StreamHandler()]
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=handlers)
    log.setLevel(logging.INFO)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    place, rng = ck.fetch(NAME), random.Random(0)
    learned, some = prompts(ck.load(NAME))
    module = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(place)
    held_out = inputs(tokenizer, some)
    optimiser = torch.optim.AdamW(module.parameters(), lr=args.rate, weight_decay=0.0)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    log.info("%s: rate %g, %d prompts a step of %d", versions, args.rate, args.batch, len(learned))
    begun = time.monotonic()
    say(0, begun, module, held_out)
    for step in range(1, KEPT[-1] + 1):
        *given, correct, _ = inputs(tokenizer, rng.sample(learned, args.batch))
        torch.nn.functional.cross_entropy(logits(module, *given), correct).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if step % 10 == 0:
            say(step, begun, module, held_out)
        if step in KEPT:
            for one in (module, AutoTokenizer.from_pretrained(place)):
                one.save_pretrained(args.folder / f"step-{step}")


if __name__ == "__main__":
    main()
