"""Whether the installed PEFT generates with its prefix on the installed transformers.

PEFT 0.21 hands the prefix over as `past_key_values`. transformers 5.24 names that argument `cache`, and PEFT's
`generate` then goes on without the prefix, or with half of it, and says nothing. What it decodes, and how fast, would
be that of another model.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

import torch

from benchmarks.shapes import SPECIAL
from seq2seq.utils import UserError


@cache
def peft_keeps_its_prefix() -> bool:
    """Whether the first token that PEFT searches for has the scores that its own forward gives it."""
    from peft import PrefixTuningConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        base = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=16, vocab_size=20, **SPECIAL))
        config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
        prefix = get_peft_model(base, config).eval()
        prompt = torch.tensor([[3, 4, 5]])
        options = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        searched = prefix.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **options).logits[0]
        return torch.allclose(searched, prefix(input_ids=prompt).logits[:, -1], atol=1e-4)


def check_peft() -> None:
    """Raise UserError if PEFT generates without its prefix."""
    if not peft_keeps_its_prefix():
        raise UserError(
            f"PEFT {version('peft')} loses its prefix where it generates on transformers {version('transformers')}; "
            "install transformers 5.23 or a newer PEFT to compare with it"
        )
