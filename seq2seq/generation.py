"""Fast, exact beam search: transformers' own, without its copies of what beams share.

    generate ─► transformers prepares the inputs, the limits and the score processors as always
             └► beam_search   prompt and source once for each source, not for each beam       beam_cache.py
                              one token: attention over shared keys                           product_attention.py
                              finished sources leave the batch

Results are those of transformers' `generate`, up to rounding. Greedy search, sampling and every option that beam_search
does not know run transformers' own loop.

Shapes: B sources, N beams, K = candidates of a source in a step, V vocabulary, T tokens so far, M most tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation import logits_process, stopping_criteria
from transformers.generation.configuration_utils import GenerationMode
from transformers.modeling_outputs import BaseModelOutput

from seq2seq.beam_cache import BeamCache
from seq2seq.beam_state import Beams
from seq2seq.fast_layers import fast_layers
from seq2seq.prefix_attention import LivePrefix, prefix_attention
from seq2seq.score_rules import apply_rules
from seq2seq.utils import CACHE_NAMES, UserError

# Models whose attention and masks are the plain ones that product_attention.py computes.
FAMILIES = ("bart", "gpt2", "llama", "mbart")
# What `generate` takes besides the settings of its configuration, as far as beam_search knows it.
INPUTS = {"input_ids", "inputs", "attention_mask", "encoder_outputs", "decoder_input_ids", "generation_config"}
RULES = {"logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn"}
SETTINGS = set(GenerationConfig().to_dict())
# Settings that ask for more than tokens, or for another cache.
OTHER_LOOPS = (
    "cache_implementation",
    "low_memory",
    "output_attentions",
    "output_hidden_states",
    "prefill_chunk_size",
    "return_dict_in_generate",
    "stop_strings",
    "token_healing",
)
DROP_SHARE = 8  # finished sources leave once they are an eighth of the batch: leaving copies what the others keep
# Rules that look at each row by itself, so that other rows may leave the batch.
ROW_BY_ROW = {
    logits_process.ForcedBOSTokenLogitsProcessor,
    logits_process.ForcedEOSTokenLogitsProcessor,
    logits_process.InfNanRemoveLogitsProcessor,
    logits_process.LogitNormalization,
    logits_process.MinLengthLogitsProcessor,
    logits_process.MinNewTokensLengthLogitsProcessor,
    logits_process.NoBadWordsLogitsProcessor,
    logits_process.NoRepeatNGramLogitsProcessor,
    logits_process.SequenceBiasLogitsProcessor,
    logits_process.SuppressTokensAtBeginLogitsProcessor,
    logits_process.SuppressTokensLogitsProcessor,
    stopping_criteria.EosTokenCriteria,
    stopping_criteria.MaxLengthCriteria,
}


def generate(
    model: Any, *args: Any, prefix: LivePrefix | None = None, count_prompt: bool = False, **options: Any
) -> Any:
    """transformers' `model.generate(*args, **options)`, faster in beam search, with the same result.

    Args:
        model: a base model, or anything with a `generate` of its own, which is then called.
        prefix: what enters the model's attention meanwhile.
        count_prompt: the length penalty counts a decoder's prompt (its tokens, not its padding) as well, as the
            authors' library did; transformers' own search does not.

    Raises UserError for count_prompt with options that only transformers' own beam search knows.
    """
    if not isinstance(model, PreTrainedModel) or not _is_plain_beam_search(model, args, options):
        if not count_prompt or options.get("num_beams", 1) == 1:
            return model.generate(*args, **options)
        if isinstance(model, PreTrainedModel):
            raise UserError(
                f"--length_norm prompt: goes with plain beam search alone, of {', '.join(FAMILIES)}; "
                "leave it out, or the options that ask for more"
            )
        return model.generate(*args, count_prompt=True, **options)

    def search(model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        return beam_search(model, input_ids, prefix=prefix, count_prompt=count_prompt, **prepared)

    with fast_search(model, _rows(args, options)):
        return model.generate(*args, custom_generate=search, **options)  # type: ignore[operator]


@contextmanager
def fast_search(model: Any, rows: int | None = None) -> Iterator[None]:
    """While open, the model searches faster: many searches in one cost the swap of its layers once.

    A base gets the attention that knows prefixes first, for with it come other GELUs, which the layers then hold.

    Args:
        rows: the most hypotheses at a time, sources times beams; None: not known.
    """
    attention = prefix_attention(model) if isinstance(model, PreTrainedModel) else nullcontext()
    with attention, fast_layers(model, rows):
        yield


def _rows(args: tuple[Any, ...], options: dict[str, Any]) -> int | None:
    """Sources times beams of a search, None where they are not told by tokens and an option."""
    prompts = [*args[:1], options.get("input_ids"), options.get("inputs")]
    sources = next((len(prompt) for prompt in prompts if prompt is not None), None)
    return None if sources is None or "num_beams" not in options else sources * options["num_beams"]


def _is_plain_beam_search(model: Any, args: tuple[Any, ...], options: dict[str, Any]) -> bool:
    named = inspect.signature(model.generate).bind(*args, **options).arguments
    given = {**named.pop("kwargs", {}), **named}
    settings = {name: value for name, value in given.items() if name in SETTINGS}
    config, _ = model._prepare_generation_config(given.get("generation_config"), **settings)
    return (
        model.config.model_type in FAMILIES
        and model.config._attn_implementation.removeprefix("prefix_") in ("sdpa", "eager")
        and not getattr(model.config, "reorder_and_upcast_attn", False)
        and not model.training
        and {name for name, value in given.items() if value is not None} <= INPUTS | RULES | SETTINGS
        and config.get_generation_mode() is GenerationMode.BEAM_SEARCH
        and config.use_cache is not False
        and not _sees_nothing(given.get("attention_mask"))
        and not any(getattr(config, name, None) for name in OTHER_LOOPS)
    )


def _sees_nothing(mask: Tensor | None) -> bool:
    """Whether an example is nothing but padding: each attention has its own answer to that, which is not ours."""
    return mask is not None and not bool(mask.flatten(1).any(1).all())


def beam_search(
    model: Any,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: Any,
    prefix: LivePrefix | None = None,
    count_prompt: bool = False,
    **inputs: Any,
) -> Tensor:
    """The best sequences (B · num_return_sequences, at most M) for inputs that `generate` has prepared.

    Args:
        input_ids: prompts (B·N, T), each N times.
        prefix: what enters the model's attention meanwhile.
        inputs: the model's further inputs, each row N times.
    """
    config, number = generation_config, generation_config.num_beams
    length = prompt = input_ids.shape[1]
    drop_finished = all(type(rule) in ROW_BY_ROW for rule in (*logits_processor, *stopping_criteria))
    drop_finished = drop_finished and (prefix is None or prefix.alike)
    decoder = _Decoder(model, input_ids[::number], number, inputs)
    beams = best = Beams.start(input_ids[::number], config, decoder.padding())
    places = torch.arange(len(beams.running), device=input_ids.device)  # of the sources that are still in the batch
    log_probs = decoder.prefill()
    if prefix is not None:
        decoder.cache.take_in(prefix)
    while True:
        log_probs = apply_rules(logits_processor, beams.running[:, :, :length].flatten(0, 1), log_probs).float()
        beams, goes_on = beams.advance(model, log_probs, prompt, length, config, stopping_criteria, count_prompt)
        more, *done = torch.cat((goes_on[None], beams.done(config))).tolist()  # the step's one wait for the device
        if not more or all(done):
            break
        if drop_finished and sum(done) * DROP_SHARE >= len(done):
            best = best.put(places, beams)
            kept = torch.tensor([i for i, is_done in enumerate(done) if not is_done], device=places.device)
            places, beams = places[kept], beams.select(kept)
            decoder.select_sources(kept)
        log_probs = decoder.step(beams.running[:, :, length], beams.running_parents[:, :, length - prompt])
        length += 1
    best = best.put(places, beams)
    count = config.num_return_sequences
    new = int((best.parents[:, :count] >= 0).sum(-1).max())
    return best.sequences[:, :count, : prompt + new].flatten(0, 1)


class _Decoder:
    """The model as a function from the beams' last tokens to the log-probabilities of the next."""

    def __init__(self, model: Any, prompts: Tensor, beams: int, inputs: dict[str, Any]) -> None:
        self.model, self.prompts, self.beams = model, prompts, beams
        self.mask = mask = None if inputs.get("attention_mask") is None else inputs["attention_mask"][::beams]
        self.last_only = {"logits_to_keep": 1} if "logits_to_keep" in inputs else {}
        self.room = torch.empty(0)  # of log-probabilities: a CPU's allocator takes tens of megabytes anew in each step
        self.encoded, prompt_mask, source_mask = None, torch.ones_like(prompts), None
        if model.config.is_encoder_decoder:
            states = inputs["encoder_outputs"][0][::beams]
            self.encoded = BaseModelOutput(last_hidden_state=states)
            source_mask = states.new_ones(states.shape[:2]) if mask is None else mask
        elif mask is not None:
            prompt_mask = mask
        self.positions = (prompt_mask.long().cumsum(-1) - 1).masked_fill(prompt_mask == 0, 0)
        self.cache = BeamCache(model, beams, prompt_mask, source_mask)
        known = inspect.signature(type(model).forward).parameters
        self.cache_name = next(name for name in CACHE_NAMES if name in known)

    def padding(self) -> Tensor:
        """How many tokens of each prompt are padding (B, 1); an encoder-decoder's has none."""
        if self.mask is None or self.encoded is not None:
            return torch.zeros_like(self.prompts[:, :1])
        return (self.mask == 0).sum(1, keepdim=True)

    def prefill(self) -> Tensor:
        """Log-probabilities of the first new token (B·N, V), from one pass over the prompt of each source (B, T)."""
        if self.encoded is None:
            log_probs = self._log_probs(
                input_ids=self.prompts, attention_mask=self.mask, position_ids=self.positions, **self.last_only
            )
        else:
            log_probs = self._log_probs(
                decoder_input_ids=self.prompts, attention_mask=self.mask, encoder_outputs=self.encoded
            )
        return log_probs.repeat_interleave(self.beams, dim=0)

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Log-probabilities of the next token (B·N, V) behind tokens (B, N) that follow beams `parents` (B, N)."""
        self.cache.follow(parents.long())
        mask, source_mask = self.cache.step_masks()
        last = tokens.reshape(-1, 1)
        if self.encoded is None:
            self.positions = self.positions[:, -1:] + 1
            positions = self.positions.repeat_interleave(self.beams, dim=0)
            return self._log_probs(input_ids=last, attention_mask=mask, position_ids=positions)
        return self._log_probs(
            decoder_input_ids=last,
            decoder_attention_mask=mask,
            attention_mask=source_mask,
            encoder_outputs=self.encoded,
        )

    def select_sources(self, sources: Tensor) -> None:
        """Keep some sources, by index."""
        self.cache.select_sources(sources)
        self.positions = self.positions[sources]

    def _log_probs(self, **inputs: Any) -> Tensor:
        """Of the next token behind each row (R, V); they are good until the next call."""
        inputs[self.cache_name] = self.cache.past_key_values
        logits = self.model(**inputs, use_cache=True, return_dict=True).logits[:, -1]
        if logits.device.type != "cpu":
            return logits.float().log_softmax(-1)
        if len(self.room) < len(logits):
            self.room = logits.new_empty(logits.shape, dtype=torch.float32)
        scores = self.room[: len(logits)].copy_(logits)
        return torch.log_softmax(scores, -1, out=scores)
