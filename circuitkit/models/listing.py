"""The models that have a name of their own."""

from __future__ import annotations

from circuitkit.models.fetching import FETCHED

__all__ = ["ARCHITECTURES", "describe_models", "list_models"]

ARCHITECTURES = (  # of Hugging Face, each put to every test with a tiny model
    "GPT2", "GPTNeoX", "Llama", "Mistral", "Qwen2", "Qwen3", "SmolLM3", "Gemma", "Gemma2",
    "Gemma3", "Olmo2", "Mixtral", "Qwen2Moe", "Olmoe", "GptOss", "OPT", "Falcon", "GPTNeo",
    "Granite", "GraniteMoe", "GPTJ", "GPTBigCode", "Phi", "Phi3", "Cohere", "StableLm",
    "Starcoder2", "Qwen3Moe", "Glm4", "Nemotron", "Llama4",
)  # fmt: skip


def describe_models() -> dict[str, str]:
    """What ``load`` takes by a name or a path, each with its description."""
    stored = {
        name: f"{source.licence}; `circuitkit fetch {name}` stores it once."
        for name, source in FETCHED.items()
    }
    return {
        "mini": "The embedded model: 4 layers, each of 4 heads and an MLP.",
        **stored,
        "DIRECTORY": "What save_pretrained of Hugging Face wrote.",
        "ORGANISATION/NAME": "A causal language model of the Hugging Face hub; @REVISION behind "
        "it names a branch, tag or commit. Tested "
        f"architectures: {', '.join(ARCHITECTURES)}. `circuitkit check` proves that a model can be "
        "used, or says why it cannot.",
        "FILE.decoder": "A compiled program, which ck.rasp made.",
    }


def list_models() -> tuple[str, ...]:
    """The names of the models that ``load`` takes without an account or a path.

    ``mini`` is part of the package; ``fetch`` stores the others once. ``load`` also takes a Hugging
    Face name, a directory, a Hugging Face module, a TransformerBridge and a compiled program's
    ``.decoder`` file; ``ck.rasp.programs()`` names the programs that can be compiled.

    Example:
        >>> ck.list_models()
        ('mini', 'smollm2-135m')
    """
    return ("mini", *FETCHED)
