"""Train ``mini``, the small model that the package carries, on the toolkit's own tasks.

``python examples/mini/train.py`` rewrites ``circuitkit/assets/mini`` and the log beside this file;
with ``--checkpoints DIR`` it leaves both alone, and keeps the model at a dozen steps of its
training in ``DIR``, to follow a circuit over them (``circuitkit track``).
The model is a GPT-2 of four layers; what it learns is the token that follows each prompt, and to
repeat random words (see ``drill``). A prompt serves for training or for the
held-out test, never for both. The facts are the exception: they are learned by heart, so that only
their pairing is new in the test.
"""

from __future__ import annotations

import argparse
import logging
import math
import platform
import random
import string
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from circuitkit.data.batches import Batch, Dataset
from circuitkit.data.examples import Example
from circuitkit.data.prompts import Prompt, Task
from circuitkit.data.tokens import TokenizerView, tokenise
from circuitkit.tasks import _names
from circuitkit.tasks.arguments import ARGUMENTS, FUNCTIONS, NOTES, docstring, template
from circuitkit.tasks.indirect_object import OBJECTS, PLACES, ioi
from circuitkit.tasks.indirect_object import TEMPLATES as IOI_TEMPLATES
from circuitkit.tasks.pronouns import ADJECTIVES, PRONOUNS, ROLES, gendered_pronoun
from circuitkit.tasks.pronouns import TEMPLATES as PRONOUN_TEMPLATES
from circuitkit.tasks.recall import RELATIONS, facts
from circuitkit.tasks.repeats import COMMON, induction
from circuitkit.tasks.years import CENTURIES, ENDINGS, NOUNS, greater_than
from circuitkit.tasks.years import TEMPLATE as YEAR_TEMPLATE

ROOT = Path(__file__).parents[2]
MINI = ROOT / "circuitkit" / "assets" / "mini"
LOG = Path(__file__).with_name("train.log")
SPECIAL = {"pad_token": "<|pad|>", "eos_token": "<|endoftext|>", "unk_token": "<|unk|>"}
# Cuts text as GPT-2's tokenizer does, save that digits go two by two: a year is " 17" and "32".
PIECES = r"'[a-z]+| ?[A-Za-z]+| ?[0-9]{1,2}| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+"
LENGTHS = range(6, 21)  # of induction's texts
CHECKPOINTS = 12
# Left alone, the heads that IOI, induction and the docstring need take many thousand steps to find
# where to look. So for the first steps some are told: the head of this layer, of this number, looks
# from this span to that one (see also ``pointing``). Afterwards they are free to change.
LOOKS = (
    (0, 2, "S2", "S1"),
    (2, 2, "end", "S2"),
    (3, 2, "end", "IO"),
    (2, 1, "end", "B_doc"),
)

log = logging.getLogger("mini")


# --- the tokenizer


def vocabulary() -> list[str]:
    """Every word that a task can write, with the space before it."""
    cut = pre_tokenizers.Split(Regex(PIECES), "isolated")
    pieces = {piece for text in _literals() for piece, _ in cut.pre_tokenize_str(text)}
    return sorted(pieces | {f" {word}" for word in _pools()} | set(ENDINGS))


def _pools() -> set[str]:
    known = RELATIONS.values()
    subjects = {word for relation in known for name in relation.answers for word in name.split()}
    return subjects.union(
        _names.NAMES, PLACES, OBJECTS, NOUNS, COMMON,
        ARGUMENTS, FUNCTIONS, NOTES, ADJECTIVES,
        ROLES, PRONOUNS, [century.strip() for century in CENTURIES],
        *(relation.answers.values() for relation in known),
    )  # fmt: skip


def _literals() -> Iterable[str]:
    templates = [*IOI_TEMPLATES, YEAR_TEMPLATE, *PRONOUN_TEMPLATES]
    templates += [text for relation in RELATIONS.values() for text in relation.templates]
    templates += [template(["A_def"])]
    return (text for template in templates for text, *_ in string.Formatter().parse(template))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer to which each word is one token; it spells other words by their letters."""
    words = vocabulary()
    letters = sorted(set(string.printable) - set(words))
    scores = [(name, 0.0) for name in SPECIAL.values()]
    scores += [(letter, -10.0) for letter in letters] + [(word, -1.0) for word in words]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=list(SPECIAL.values()).index("<|unk|>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL["eos_token"],
        clean_up_tokenization_spaces=False,
        **SPECIAL,
    )


# --- the prompts


def mirrored(task: Task) -> list[Prompt]:
    """The task's prompts, and their corrupted texts with the answers that these have."""
    return [*task.prompts, *(turn(p) for p in task.prompts for turn in _TURNS.get(task.name, ()))]


def _flip(prompt: Prompt) -> Prompt:
    return Prompt(prompt.corrupt, prompt.clean, prompt.wrong, prompt.correct)


def _lowest(prompt: Prompt) -> Prompt:
    later = tuple(ending for ending in ENDINGS if ending > "01")
    return Prompt(prompt.corrupt, prompt.clean, later, ("00", "01"))


_TURNS: dict[str, tuple[Callable[[Prompt], Prompt], ...]] = {
    "ioi": (_flip,),
    "induction": (_flip,),
    "gendered_pronoun": (_flip,),
    "facts": (_flip,),
    "greater_than": (_lowest,),
}


def tasks(words: TokenizerView, n: int, seed: int) -> dict[str, Task]:
    """Each task with n prompts, or with all that there are where these are few."""
    return {
        "ioi": ioi(words, n, seed),
        # A hundred answers a prompt take long to tokenise, and fewer prompts teach as much.
        "greater_than": greater_than(words, min(n, 3000), seed),
        "induction": induction(words, n, seed),
        "gendered_pronoun": gendered_pronoun(words, n, seed),
        "docstring": docstring(words, n, seed),
        "facts": facts(words, min(n, 300), seed),
    }


def training(
    words: TokenizerView, n: int, seed: int, held_out: dict[str, Task]
) -> list[list[Example]]:
    """Pools of examples: one a task, and for induction one a length of text."""
    made = tasks(words, n, seed)
    del made["induction"]
    lists = list(made.values())
    each = n // len(LENGTHS)
    lists += [induction(words, each, seed + k, length=k) for k in LENGTHS]
    return [list(tokenise(_apart(task, held_out[task.name]), words)) for task in lists]


def _apart(task: Task, held_out: Task) -> list[Prompt]:
    """The prompts whose text is in none of the held-out pairs; all of them where it is facts."""
    seen = {text for p in held_out.prompts for text in (p.clean, p.corrupt)}
    return [p for p in mirrored(task) if task.name == "facts" or p.clean not in seen]


# --- the training


def logits(model: GPT2LMHeadModel, batch: Batch) -> Tensor:
    """The logits of the token that follows each prompt."""
    hidden = model.transformer(batch.clean).last_hidden_state
    return model.lm_head(hidden[torch.arange(len(batch)), batch.last])


def loss(model: GPT2LMHeadModel, batch: Batch) -> Tensor:
    """The cross-entropy to the correct answers, all equally likely."""
    known = batch.correct >= 0
    logprob = logits(model, batch).log_softmax(-1).gather(1, batch.correct.clamp(min=0))
    return -((logprob * known).sum(1) / known.sum(1)).mean()


def guided(
    model: GPT2LMHeadModel, batch: Batch, looks: Sequence[tuple[int, int, str, str]]
) -> Tensor:
    """The loss, and how far the heads are from looking where they are told to."""
    total = loss(model, batch)
    if not looks:
        return total
    attentions = model.transformer(batch.clean, output_attentions=True).attentions
    rows = torch.arange(len(batch))
    for layer, head, here, there in looks:
        places = batch.spans[here][:, 0], batch.spans[there][:, 0]
        total = total - (attentions[layer][rows, head, *places] + 1e-6).log().mean()
    return total


def drill(
    model: GPT2LMHeadModel, words: Tensor, size: int, rng: random.Random, *, guiding: bool
) -> Tensor:
    """The loss on texts of a few pieces of random words that come again and again in any order:
    the inside of a piece that was there before can be told."""
    length = rng.randint(2, 4)
    kinds, shown = rng.randint(2, 12 // length), 24 // length
    pieces = words[torch.rand(size, len(words)).argsort(1)[:, : kinds * length]]
    chosen = torch.randint(kinds, (size, shown))
    again = (chosen[:, :, None] == chosen[:, None, :]).tril(-1).any(2)
    rows = torch.arange(size)[:, None]
    body = pieces.view(size, kinds, length)[rows, chosen]
    opening = words[torch.randint(len(words), (size, rng.randrange(4)))]
    text = torch.cat([opening, body.flatten(1)], 1)
    out = model.transformer(text, output_attentions=guiding)
    hidden = out.last_hidden_state[:, opening.shape[1] :].unflatten(1, (shown, length))
    logits = model.lm_head(hidden[:, :, :-1][again])
    told = torch.nn.functional.cross_entropy(logits.flatten(0, 1), body[:, :, 1:][again].flatten())
    return told + sum(pointing(text, out.attentions, k) for k in (1, 2)) if guiding else told


def pointing(text: Tensor, attentions: Sequence[Tensor], k: int) -> Tensor:
    """How far a head of layer 0 is from looking k words back, and one of layer 1 from looking at
    the k-th word after an earlier place of this word."""
    before, followed = attentions[0][:, k - 1], attentions[1][:, k - 1]
    same = (text[:, :, None] == text[:, None, :]).tril(-k)[:, :, :-k]
    there = (followed[:, :, k:] * same).sum(-1)[same.any(-1)]
    return -(before.diagonal(-k, 1, 2) + 1e-6).log().mean() - (there + 1e-6).log().mean()


@torch.no_grad()
def measure(model: GPT2LMHeadModel, examples: Sequence[Example]) -> tuple[float, float]:
    """How often a correct answer has more logit than every wrong one, and the probability of the
    correct answers."""
    right, mass = 0.0, 0.0
    for batch in Dataset(tuple(examples), batch_size=100):
        out = logits(model, batch)
        best = [
            out.gather(1, answers.clamp(min=0)).masked_fill(answers < 0, -math.inf).amax(1)
            for answers in (batch.correct, batch.wrong)
        ]
        right += (best[0] > best[1]).sum().item()
        answers = out.softmax(-1).gather(1, batch.correct.clamp(min=0))
        mass += (answers * (batch.correct >= 0)).sum().item()
    return right / len(examples), mass / len(examples)


def batches(pools: list[list[Example]], size: int, rng: random.Random) -> list[Batch]:
    """One batch of each task; induction's texts are of one length, drawn each time."""
    alone, repeats = pools[: -len(LENGTHS)], pools[-len(LENGTHS) :]
    chosen = (rng.sample(pool, min(size, len(pool))) for pool in [*alone, rng.choice(repeats)])
    return [batch for some in chosen for batch in Dataset(tuple(some), batch_size=size)]


def train(
    model: GPT2LMHeadModel,
    pools: list[list[Example]],
    test: dict[str, list[Example]],
    words: TokenizerView,
    args: argparse.Namespace,
) -> None:
    """Minimise the sum of the tasks' losses, with a warm-up and a cosine decay."""
    rng = random.Random(args.seed)
    said = sorted({*COMMON, *ARGUMENTS, *_names.NAMES})
    repeated = torch.tensor(words.ids([f" {word}" for word in said])).flatten()
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(1, (step + 1) / 100) * (1 + math.cos(math.pi * step / args.steps)) / 2,
    )
    begun = time.monotonic()
    for step in range(1, args.steps + 1):
        guiding = step <= args.guided
        for batch in batches(pools, args.batch, rng):
            looks = [look for look in LOOKS if guiding and {*look[2:]} <= {*batch.spans}]
            guided(model, batch, looks).backward()
        drill(model, repeated, args.batch, rng, guiding=guiding).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        if step % 100 == 0:
            table = {name: measure(model, examples[:200])[0] for name, examples in test.items()}
            shown = "  ".join(f"{name} {value:.3f}" for name, value in table.items())
            log.info("step %d, %.0f s: %s", step, time.monotonic() - begun, shown)
            if args.checkpoints is None:
                save(model, words, args.out)
        if args.checkpoints is not None and step in kept_steps(args.steps):
            save(model, words, args.checkpoints / f"step-{step:04}")


def kept_steps(steps: int) -> list[int]:
    """After which steps the model is kept: a dozen, closer together at the beginning."""
    return [round(steps * (k / CHECKPOINTS) ** 2) for k in range(1, CHECKPOINTS + 1)]


def new_model(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """An untrained model."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=96,
        n_embd=128,
        n_layer=4,
        n_head=4,
        initializer_range=0.08,  # with 0.02, attention hardly tells words apart for long
        attn_implementation="eager",  # gives the attention to the drill
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = GPT2LMHeadModel(config)
    waves = (
        torch.arange(config.n_positions)[:, None]
        * config.n_positions ** -(torch.arange(0, 1, 2 / config.n_embd)[None])
    )
    # Positions begin as waves, by which "the word before" is a rotation; they learn like the rest.
    model.transformer.wpe.weight.data.copy_(0.1 * torch.cat([waves.sin(), waves.cos()], 1))
    return model


def save(model: GPT2LMHeadModel, words: TokenizerView, folder: Path) -> None:
    """Write the model and its tokenizer."""
    model.save_pretrained(folder)
    words.tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # it is written for its owner alone


def open_log(path: Path) -> None:
    """Log to the file and to the terminal."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    handlers = [logging.FileHandler(path, "w", encoding="utf-8"), logging.StreamHandler()]
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=handlers)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Train the model mini.")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--guided", type=int, default=400, help="first steps with guided heads")
    parser.add_argument("--batch", type=int, default=32, help="prompts of each task in a step")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--prompts", type=int, default=12000, help="a task's prompts for training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--checkpoints", type=Path, metavar="DIR",
        help="keep the model at a dozen steps here, with the log, instead of rewriting mini",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=MINI)
    parser.add_argument("--log", type=Path)
    args = parser.parse_args()
    args.log = args.log or (args.checkpoints / LOG.name if args.checkpoints else LOG)
    return args


def main() -> None:
    """Make the tokenizer, train, save, measure."""
    args = arguments()
    args.log.parent.mkdir(parents=True, exist_ok=True)
    open_log(args.log)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    words = TokenizerView(make_tokenizer())
    model = new_model(words.tokenizer)
    modules = (torch, transformers, tokenizers)
    versions = ", ".join(f"{module.__name__} {module.__version__}" for module in modules)
    log.info("python %s, %s", platform.python_version(), versions)
    kept = ("seed", "steps", "guided", "batch", "rate", "prompts")
    log.info(", ".join(f"{name} {value}" for name, value in vars(args).items() if name in kept))
    log.info("%d parameters, %d tokens", model.num_parameters(), len(words.tokenizer))
    held_out = tasks(words, 1000, args.seed + 1)
    test = {name: list(tokenise(task.prompts, words)) for name, task in held_out.items()}
    train(model, training(words, args.prompts, args.seed + 2, held_out), test, words, args)
    if args.checkpoints is None:
        save(model, words, args.out)
    log.info("held out:")
    for name, examples in test.items():
        accuracy, mass = measure(model, examples)
        row = (name, len(examples), accuracy, mass)
        log.info("%-16s  %4d prompts  accuracy %.4f  p(correct) %.4f", *row)


if __name__ == "__main__":
    main()
