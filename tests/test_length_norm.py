"""`--length_norm prompt`: the lengths that transformers counted when the authors wrote, and where its search ended."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from seq2seq.generation import generate

BEAMS, NEW = 5, 8


def old_search(model: Any, prompt: Tensor, penalty: float) -> list[int]:
    """The best hypothesis of one prompt (1, T) by the beam search of transformers before 4.0: its new ids.

    A hypothesis that ends counts its prompt and text without the token that ends it; one that is cut counts all.
    """
    limit = prompt.shape[1] + NEW
    running = [(prompt[0].tolist(), 0.0)]
    ended: list[tuple[float, list[int]]] = []
    while len(running[0][0]) < limit:
        length = len(running[0][0])
        logits = model(input_ids=torch.tensor([ids for ids, _ in running])).logits[:, -1]
        sums = logits.log_softmax(-1) + torch.tensor([[score] for _, score in running])
        best, chosen = (x.tolist() for x in sums.flatten().topk(2 * BEAMS))
        following = []
        for rank, (score, place) in enumerate(zip(best, chosen, strict=True)):
            beam, token = divmod(place, sums.shape[1])
            if token != tiny.EOS:
                following.append(([*running[beam][0], token], score))
            elif rank < BEAMS:
                ended.append((score / length**penalty, running[beam][0]))
        ended = sorted(ended, reverse=True)[:BEAMS]
        if len(ended) == BEAMS and ended[-1][0] >= best[0] / length**penalty:
            return ended[0][1][prompt.shape[1] :]
        running = following[:BEAMS]
    ended += [(score / limit**penalty, ids) for ids, score in running]
    return max(ended)[1][prompt.shape[1] :]


@pytest.mark.parametrize(("spread", "penalty"), [(0.8, 1.0), (0.3, 2.0)])
def test_it_is_the_old_search(spread: float, penalty: float) -> None:
    lengths = set()
    options: dict[str, Any] = {"num_beams": BEAMS, "max_new_tokens": NEW, "length_penalty": penalty, "do_sample": False}
    for seed in range(3):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(tiny.gpt2(initializer_range=spread)).double().eval()
        prompts = [torch.randint(3, tiny.VOCABULARY, (1, 3 + row % 5)) for row in range(12)]
        width = max(prompt.shape[1] for prompt in prompts)
        ids = torch.cat([torch.nn.functional.pad(p, (width - p.shape[1], 0), value=tiny.PAD) for p in prompts])
        with torch.no_grad():
            found = generate(
                model, input_ids=ids, attention_mask=(ids != tiny.PAD).long(), count_prompt=True, **options
            )
            expected = [old_search(model, prompt, penalty) for prompt in prompts]
        for row, text in zip(found[:, width:].tolist(), expected, strict=True):
            assert [token for token in row if token not in (tiny.EOS, tiny.PAD)] == [t for t in text if t != tiny.PAD]
        lengths |= {len(text) for text in expected}
    assert NEW in lengths and len(lengths) > 1  # some are cut, others end
