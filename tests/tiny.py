"""Tiny random base models, batches for them, and attention written out naively."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
    T5GemmaModuleConfig,
)

from seq2seq.prefixTuning import PrefixTuning

VOCABULARY, PAD, EOS = 60, 1, 2
SPECIAL = {"bos_token_id": 0, "pad_token_id": PAD, "eos_token_id": EOS}


SIZES_OF_BARTS = {  # and of those that are laid out like it
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "d_model": 32,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "vocab_size": VOCABULARY,
    "init_std": 0.2,
}


def bart(**changes: Any) -> BartConfig:
    dropouts = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1}
    more = {"decoder_start_token_id": EOS, "forced_eos_token_id": None}
    return BartConfig(**{**SIZES_OF_BARTS, **dropouts, **more, **SPECIAL, **changes})


def gpt2(**changes: Any) -> GPT2Config:
    sizes = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 64, "vocab_size": VOCABULARY}
    return GPT2Config(**{**sizes, "initializer_range": 0.2, **SPECIAL, **changes})


def llama(**changes: Any) -> LlamaConfig:
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "vocab_size": VOCABULARY}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return LlamaConfig(**{**sizes, **heads, "initializer_range": 0.2, **SPECIAL, **changes})


def t5gemma() -> T5GemmaConfig:
    """Encoder and decoder of different width, depth and heads."""

    def module(**sizes: int) -> T5GemmaModuleConfig:
        shared = {"intermediate_size": 48, "head_dim": 16, "query_pre_attn_scalar": 16, "vocab_size": VOCABULARY}
        more = {"attn_logit_softcapping": None, "final_logit_softcapping": None, "initializer_range": 0.2}
        return T5GemmaModuleConfig(**shared, **more, **SPECIAL, **sizes)

    encoder = module(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1)
    decoder = module(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3)
    return T5GemmaConfig(encoder=encoder, decoder=decoder, vocab_size=VOCABULARY, **SPECIAL)


CONFIGS = {"bart": bart, "gpt2": gpt2, "llama": llama, "t5gemma": t5gemma}
MODELS = {
    "bart": BartForConditionalGeneration,
    "gpt2": GPT2LMHeadModel,
    "llama": LlamaForCausalLM,
    "t5gemma": T5GemmaForConditionalGeneration,
}


def base(family: str, attention: str = "sdpa", dtype: torch.dtype = torch.float64, **changes: Any) -> PreTrainedModel:
    """A random model of a family, in eval mode; the same arguments give the same weights."""
    torch.manual_seed(7)
    model = MODELS[family]._from_config(CONFIGS[family](**changes), attn_implementation=attention)
    return model.to(dtype).eval()


def prefixed(
    family: str,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float64,
    changes: dict[str, Any] | None = None,
    kind: type[PrefixTuning] = PrefixTuning,
    **options: Any,
) -> PrefixTuning:
    """A random prefix (4 vectors) on a random base; the same arguments give the same weights."""
    model = base(family, attention, dtype, **(changes or {}))
    torch.manual_seed(11)
    return kind(model, **{"preseqlen": 4, "mid_dim": 8, **options}).to(dtype).eval()


def rows(family: str) -> list[dict[str, Tensor]]:
    """Three examples of different lengths, one row each, without padding."""
    generator = torch.Generator().manual_seed(3)

    def words(length: int) -> Tensor:
        return torch.randint(3, VOCABULARY, (1, length), generator=generator)

    examples = []
    for source, target in ((7, 5), (3, 6), (5, 2)):
        ids = words(source)
        labels = words(target) if family in ("bart", "t5gemma") else ids
        examples.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return examples


def rows_without_labels(family: str) -> list[dict[str, Tensor]]:
    """The examples of `rows` to generate from."""
    return [{name: x for name, x in example.items() if name != "labels"} for example in rows(family)]


def batch(family: str, side: str = "right") -> dict[str, Tensor]:
    """The examples of `rows` in one batch, padded on a side (labels with -100)."""

    def stack(name: str, fill: int) -> Tensor:
        sequences = [example[name][0] for example in rows(family)]
        return nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=fill, padding_side=side)

    return {
        "input_ids": stack("input_ids", PAD),
        "attention_mask": stack("attention_mask", 0),
        "labels": stack("labels", -100),
    }


def prompts(family: str) -> dict[str, Tensor]:
    """The batch to generate from: without labels, decoders padded on the left."""
    inputs = batch(family, "right" if family in ("bart", "t5gemma") else "left")
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def exactness(family: str, attention: str) -> float:
    """How near two ways to compute the same come in float64; Llama's own eager attention rounds weights to float32."""
    return 2e-5 if (family, attention) == ("llama", "eager") else 1e-10


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0.0)


def step(prefix: PrefixTuning, **inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of one training step."""
    prefix.zero_grad()
    loss = prefix(**inputs).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in prefix.prefix.named_parameters()}


def check_same_step(
    one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]], tolerance: float = 1e-10
) -> None:
    close(one[0], other[0], tolerance)
    assert one[1].keys() == other[1].keys()
    for name in one[1]:
        close(one[1][name], other[1][name], tolerance)


def count_calls(module: nn.Module) -> list[None]:
    """A list that grows by one with every call of a module."""
    calls: list[None] = []
    module.register_forward_hook(lambda *_: calls.append(None))
    return calls


def naive_bart_attention(
    module: nn.Module, queries: Tensor, states: Tensor, visible: Tensor, prefix: tuple[Tensor, Tensor] | None
) -> Tensor:
    """One softmax over [prefix; own keys], written out. Queries (B, T, d), states (B, S, d), visible (B, T, S)."""

    def heads(projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (module.num_heads, module.head_dim)).transpose(1, 2)

    query, key, value = heads(module.q_proj(queries)), heads(module.k_proj(states)), heads(module.v_proj(states))
    if prefix is not None:
        in_front = [vectors.expand(len(queries), *vectors.shape) for vectors in prefix]
        key, value = torch.cat((in_front[0], key), dim=2), torch.cat((in_front[1], value), dim=2)
        visible = torch.cat((visible.new_ones(*visible.shape[:2], prefix[0].shape[1]), visible), dim=2)
    scores = query @ key.transpose(2, 3) / module.head_dim**0.5
    weights = scores.masked_fill(~visible[:, None], float("-inf")).softmax(-1)
    return module.out_proj((weights @ value).transpose(1, 2).flatten(2))
