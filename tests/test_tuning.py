"""What of a base is trained, in bases of several blocks."""

from __future__ import annotations

import pytest
import tiny
from transformers import MBartConfig, MBartForConditionalGeneration

from seq2seq.arguments import Arguments
from seq2seq.tuning import unfreeze_top, with_prefix


@pytest.mark.parametrize(
    ("family", "blocks", "norms"),
    [
        ("gpt2", {"transformer.h.1"}, {"transformer.ln_f"}),
        ("llama", {"model.layers.1"}, {"model.norm"}),
        (
            "mbart",
            {"model.encoder.layers.1", "model.decoder.layers.1"},
            {"model.encoder.layer_norm", "model.decoder.layer_norm"},
        ),
    ],
)
def test_of_several_blocks_the_last_are_trained_and_the_norm_behind_them(
    family: str, blocks: set[str], norms: set[str]
) -> None:
    stacks = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    sizes = {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": 60}
    mbart = family == "mbart"
    base = MBartForConditionalGeneration(MBartConfig(**stacks, **sizes)) if mbart else tiny.base(family)
    trained = {name for name, p in unfreeze_top(base, 1).named_parameters() if p.requires_grad}
    modules = {name.rpartition(".")[0] for name in trained}
    assert norms <= modules
    assert {block for block in blocks if any(name.startswith(f"{block}.") for name in trained)} == blocks
    assert all(name in norms or any(name.startswith(f"{block}.") for block in blocks) for name in modules)


def test_an_embedding_prefix_takes_the_same_options() -> None:
    asked = Arguments(prefix_mode="embedding", sites=["cross"], preseqlen=3, mid_dim=8, prefix_dropout=0.25)
    prefix = with_prefix(asked, tiny.base("bart"))
    assert (set(prefix.sites), prefix.dropout, prefix.preseqlen, prefix.mid_dim) == ({"cross"}, 0.25, 3, 8)
