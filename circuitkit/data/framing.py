"""What prompts are put into: a BOS token or none, and the chat template of a tokenizer.

A chat template is Jinja code that comes with a tokenizer; transformers renders it in a sandbox, in
which it reaches nothing but the messages that it is given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from circuitkit.data.prompts import Prompt
from circuitkit.errors import DataError
from circuitkit.util.json_values import Json

__all__ = ["FRAMING", "Framed", "Tokenizer", "framed", "framing"]

FRAMING = ("bos", "chat")  # under which results record it
MESSAGE, REPLY = "circuitkitasks", "circuitkitanswers"  # words that no template has
DAY = date(2024, 7, 26)  # today, to templates that ask: prompts are the same on every day
TODAY = r"""strftime_now\(\s*(['"])([^'"]*)\1\s*\)"""


@runtime_checkable
class Tokenizer(Protocol):
    """What we need of a Hugging Face tokenizer."""

    @property
    def bos_token_id(self) -> int | None:
        """The token that starts a text, if there is one."""

    def __call__(
        self, text: list[str], *, add_special_tokens: bool
    ) -> Mapping[str, Sequence[list[int]]]:
        """The token ids of each text, as ``input_ids``."""

    def decode(self, token_ids: list[int], /) -> str:
        """The text of these token ids."""


@dataclass(frozen=True)
class Framed:
    """A tokenizer with a choice of BOS token and chat template; otherwise it is the tokenizer.

    Attributes:
        tokenizer: The tokenizer itself.
        bos: Whether prompts begin with a BOS token; None for what the tokenizer does.
        chat: Whether a prompt is the user's message in the tokenizer's chat template.
    """

    tokenizer: Tokenizer
    bos: bool | None = None
    chat: bool | None = None

    @property
    def bos_token_id(self) -> int | None:
        """The token that starts a text, if there is one."""
        return self.tokenizer.bos_token_id

    def __call__(
        self, text: list[str], *, add_special_tokens: bool
    ) -> Mapping[str, Sequence[list[int]]]:
        """The token ids of each text, as the tokenizer gives them."""
        return self.tokenizer(text, add_special_tokens=add_special_tokens)

    def decode(self, token_ids: list[int], /) -> str:
        """The text of these token ids."""
        return self.tokenizer.decode(token_ids)

    def __len__(self) -> int:
        return len(self.tokenizer)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name == "tokenizer" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.tokenizer, name)

    # -- the chat template -------------------------------------------------------------------------
    @cached_property
    def ends(self) -> tuple[str, str]:
        """What the template puts before and after the user's message."""
        before, found, after = self._rendered(MESSAGE).partition(MESSAGE)
        if not found or MESSAGE in after:
            times = "more than once" if found else "nowhere"
            raise DataError(
                f"the chat template writes the user's message {times}; leave out chat (--chat)"
            )
        return before, after

    @cached_property
    def spaced(self) -> bool:
        """Whether the template puts a space between its header and what the assistant says."""
        try:
            whole = self._rendered(MESSAGE, REPLY)
        except DataError:
            return False  # a template for questions alone
        between = whole.partition(MESSAGE)[2].partition(REPLY)[0]
        return between.removeprefix(self.ends[1]) == " "

    def around(self, text: str) -> str:
        """The text as the user's message, up to where the assistant answers. Raises DataError where
        the template does not write the text as it is, space at its ends aside."""
        return self._placed(text)[0]

    def _placed(self, text: str) -> tuple[str, int, int]:
        """The same, with the place of the text's first character and that behind its last: where
        the template leaves out the space at its ends, of what it leaves."""
        whole, (before, after) = self._rendered(text), self.ends
        stop = len(whole) - len(after)
        inner = whole[len(before) : stop]
        if whole != f"{before}{inner}{after}" or inner not in (text, text.strip()):
            raise DataError(
                f"the chat template does not write the text {text!r} as it is; use another text, "
                "or leave out chat (--chat)"
            )
        return whole, len(before) - text.index(inner), stop

    @cached_property
    def _template(self) -> str:
        """The template, to which today is always the same day."""
        own: str = self.tokenizer.get_chat_template()  # type: ignore[attr-defined]
        return re.sub(TODAY, lambda found: repr(DAY.strftime(found[2])), own)

    def _rendered(self, message: str, reply: str | None = None) -> str:
        """The conversation as the template writes it: the message and what opens an answer, or the
        message and its answer. A model that could think first is asked to answer at once."""
        said = [{"role": "user", "content": message}]
        said += [] if reply is None else [{"role": "assistant", "content": reply}]
        try:
            text: str = self.tokenizer.apply_chat_template(  # type: ignore[attr-defined]
                said, chat_template=self._template, tokenize=False,
                add_generation_prompt=reply is None, enable_thinking=False,
            )  # fmt: skip
        except Exception as error:  # whatever the template raises
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise DataError(
                f"the chat template fails ({reason}); leave out chat (--chat), or correct the "
                "tokenizer's chat_template"
            ) from error
        return text

    def prompt(self, prompt: Prompt) -> Prompt:
        """The prompt in the template: its texts as the user's messages, its spans at the same
        words, and its answers behind the assistant's header, where they have no leading space
        unless the template puts one there."""
        clean, spans = self._with_spans(prompt.clean, prompt.spans)
        corrupt, own = prompt.corrupt, dict(prompt.corrupt_spans)
        if corrupt is not None:
            corrupt, own = self._with_spans(corrupt, prompt.corrupt_spans)
        return Prompt(
            clean,
            corrupt,
            tuple(map(self.answer, prompt.correct)),
            tuple(map(self.answer, prompt.wrong)),
            spans,
            {name: self.around(text) for name, text in prompt.corruptions.items()},
            own,
        )

    def _with_spans(
        self, text: str, spans: Mapping[str, tuple[int, int]]
    ) -> tuple[str, dict[str, tuple[int, int]]]:
        """The text in the template, and its spans there."""
        for name, (start, stop) in spans.items():
            if not 0 <= start < stop <= len(text):
                raise DataError(
                    f"the span {name!r} from {start} to {stop} contains no token of "
                    f"{text!r}; give the characters from the space before a word to its end"
                )
        whole, first, end = self._placed(text)
        begin = len(self.ends[0]) - self.ends[0].endswith(" ")  # a space belongs to its word
        found = {
            name: (start + first if start + first > len(self.ends[0]) else begin,
                   min(stop + first, end))
            for name, (start, stop) in spans.items()
        }  # fmt: skip
        return whole, found

    def said(self) -> list[str]:
        """What a check says of it, a line each."""
        before, after = self.ends
        kept = "with" if self.spaced else "without"
        lines = [
            f"chat template: {before!r} + the text + {after!r}",
            f"  answers follow {after[-24:]!r} and are taken {kept} their leading space",
        ]
        if after.rfind("<think>") > after.rfind("</think>"):
            lines.append("  warning: the template opens a thought, so that no answer comes at once")
        return lines

    def answer(self, text: str) -> str:
        """An answer as the assistant begins with it."""
        return text if self.spaced else text.removeprefix(" ") or text


def framing(tokenizer: object) -> dict[str, Json]:
    """What results record of it: what was chosen, and nothing of what the tokenizer does itself."""
    if not isinstance(tokenizer, Framed):
        return {}
    return {key: value for key in FRAMING if (value := getattr(tokenizer, key)) is not None}


def framed(
    tokenizer: Tokenizer,
    *,
    bos: bool | None = None,
    chat: bool | None = None,
    name: str = "the model",
) -> Tokenizer:
    """The tokenizer with a choice of BOS token and chat template; None leaves it as it is.

    Raises DataError, with the model's name, where there is no BOS token or no chat template, or
    where the template fails.

    Example:
        >>> from circuitkit.data.framing import framed
        >>> framed(model.tokenizer, chat=True, name="mini")
        Traceback (most recent call last):
        ...
        circuitkit.errors.DataError: 'mini' has no chat template, so that no prompt can be ...
    """
    for key, value in (("bos", bos), ("chat", chat)):
        if value is not None and not isinstance(value, bool):
            raise DataError(f"{key} is {value!r}; give True, False, or None for the usual")
    if bos is None and chat is None:
        return tokenizer
    own = tokenizer if isinstance(tokenizer, Framed) else Framed(tokenizer)
    found = replace(
        own, bos=own.bos if bos is None else bos, chat=own.chat if chat is None else chat
    )
    if bos and found.bos_token_id is None:
        raise DataError(
            f"the tokenizer of {name!r} has no BOS token, so prompts cannot begin with one; "
            "leave out bos (--bos)"
        )
    if chat and not getattr(found.tokenizer, "chat_template", None):
        raise DataError(
            f"{name!r} has no chat template, so that no prompt can be a user's message; leave out "
            "chat (--chat), or load a model that was tuned for chat, or give it a tokenizer that "
            "has one"
        )
    if chat:
        _ = found.ends  # raises where the template fails
    return found
