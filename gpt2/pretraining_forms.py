"""What a decoder is pretrained on: plain text, and text-to-text forms of the same text that teach it to copy.

    plain      <eos> text, cut anywhere
    noisy      text with spans hidden and sentences shuffled  <eos>  text <eos>
    pieces     its words in pieces of 1 to 4, shuffled, ` | ` between  <eos>  text <eos>
    key words  its names, numbers and other telling words, shuffled    <eos>  text <eos>
    records    `word : name | word : number | …`                       <eos>  text <eos>

Records are drawn most, and in some of them every telling word stands: to say each field, and none of them twice, is
what table-to-text asks of a base and what copying alone does not teach.

A frozen decoder can only be steered to what it can do, and plain text alone teaches copying late. The forms have the
layout in which table-to-text is trained (` source <eos> target <eos>`), and carry loss on the target alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2.copy_heads import start_copying
from seq2seq.arguments import Arguments
from seq2seq.pretraining_data import UNIT, Denoiser
from seq2seq.text_forms import pad_rows, right_padded_mask
from seq2seq.utils import IGNORE, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
POSITIONS = UNIT + 2  # <eos> before a window of UNIT tokens, and one to predict; a longer pair stays plain text
SHORTEST = 6  # tokens; a window below it stays plain text
PIECE_WORDS = 4  # words of a piece, at most
FORM_SHARES = {"noisy": 0.15, "pieces": 0.15, "key_words": 0.25, "records": 0.45}  # of the windows that get a form
COMMON = 700  # entries of the vocabulary: a word of one token below it (the commonest are merged first) tells little
JOINED = 0.6  # share of the telling words next to each other that become one span, as `coffee shop` is one value


class PretrainingForms:
    """Token ids of a window -> (source, target) in one of the forms, drawn at random; a plain text has no source.

    share: of windows that get a text-to-text form; 0 = plain text only.
    mask_ratio, span_mean, permute: of the noisy form, `Denoiser`'s.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, share: float, mask_ratio: float, span_mean: float, permute: bool
    ) -> None:
        self.share, self.eos, self.pad = share, tokenizer.eos_token_id, tokenizer.pad_token_id
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self.denoiser = Denoiser(tokenizer, mask_ratio, span_mean, permute)
        self.starts_word = np.array([token.startswith("Ġ") or token == "Ċ" for token in tokens])
        bare = [token.lstrip("Ġ") for token in tokens]
        self.is_name = np.array([token[:1].isupper() or token[:1].isdigit() for token in bare])
        self.is_blank = np.array([token == "Ġ" for token in tokens])
        self.is_mark = ~np.array([any(c.isalnum() for c in token) and token != "Ċ" for token in bare]) & ~self.is_blank
        self.blank, self.bar, self.colon = (
            np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
            for text in (" ", " |", " :")
        )
        self.forms: list[Callable[[np.ndarray, np.random.Generator], np.ndarray]] = [
            getattr(self, f"_{name}") for name in FORM_SHARES
        ]

    def from_window(self, window: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """`window` (n,) -> source and target, both without <eos>; plain text is the whole window, without a source."""
        sentences = self.denoiser.whole_sentences(window)
        if rng.random() >= self.share or len(sentences) < SHORTEST:
            return window[:0], window
        source = self.forms[int(rng.choice(len(self.forms), p=list(FORM_SHARES.values())))](sentences, rng)
        row = len(source) + len(sentences) + 2 * (len(self.blank) + 1)
        return (source, sentences) if row <= POSITIONS else (window[:0], window)

    def collate(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask, labels, each (B, T): ` source <eos> target <eos>`, loss on the target alone."""
        end, nothing = np.array([self.eos]), np.zeros(0, dtype=np.int64)
        rows, labels = [], []
        for source, target in pairs:
            blank = self.blank if len(source) else nothing
            head = np.concatenate((source, blank, end))
            tail = np.concatenate((target, blank, end if len(source) else nothing))  # plain text goes on
            rows.append(np.concatenate((head, tail)))
            labels.append(np.concatenate((np.full(len(head), IGNORE), tail)))
        input_ids = pad_rows(rows, self.pad)
        return {
            "input_ids": input_ids,
            "attention_mask": right_padded_mask(rows, input_ids.shape[1]),
            "labels": pad_rows(labels, IGNORE),
        }

    def _words(self, ids: np.ndarray) -> list[np.ndarray]:
        return [word for word in np.split(ids, np.flatnonzero(self.starts_word[ids])) if len(word)]

    def _noisy(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.denoiser.noise(ids, rng)

    def _pieces(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        words = self._words(ids)
        cuts = np.cumsum(rng.integers(1, PIECE_WORDS + 1, size=len(words)))
        pieces = [np.concatenate(words[a:b]) for a, b in zip([0, *cuts], cuts, strict=False) if a < len(words)]
        return self._joined([pieces[i] for i in rng.permutation(len(pieces))])

    def _key_words(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        chosen = [span for _, span in self._spans(ids, rng)]
        return self._joined([chosen[i] for i in rng.permutation(len(chosen))])

    def _records(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        fields = [np.concatenate((label, self.colon, span)) for label, span in self._spans(ids, rng)]
        return self._joined([fields[i] for i in rng.permutation(len(fields))])

    def _spans(self, ids: np.ndarray, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        """(label, span) pairs: all names and numbers and a share of the other telling words, each with a label.

        The share is drawn anew for each text. Neighbouring names and numbers are one span, neighbouring words often.
        The label is the nearest word before the span that is in none, as a field's name stands before its value.
        """
        others = rng.random()
        spans: list[tuple[np.ndarray, list[np.ndarray]]] = []
        label, kind = self._any_word(ids, rng), ""  # of the open span: "name", "word", or none
        for word in self._words(ids):
            bare = word[~self.is_mark[word]]  # without the comma that follows a word
            content = bare[~self.is_blank[bare]]
            if not len(content):
                kind = ""
                continue
            named = bool(self.is_name[content[0]])
            telling = named or (len(content) > 1 or content[0] >= COMMON) and rng.random() < others
            now = "name" if named else "word"
            if not telling:
                label, kind = bare, ""
                continue
            if now == kind and (named or rng.random() < JOINED):
                spans[-1][1].append(bare)
            else:
                spans.append((label, [bare]))
            kind = now if len(bare) == len(word) else ""
        if not spans:
            spans.append((label, [self._any_word(ids, rng)]))
        return [(label, np.concatenate(words)) for label, words in spans]

    def _any_word(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        words = self._words(ids)
        return words[int(rng.integers(len(words)))]

    def _joined(self, parts: list[np.ndarray]) -> np.ndarray:
        joined = [parts[0]]
        for part in parts[1:]:
            joined += [self.bar, part]
        return np.concatenate(joined)


class CausalLanguageModelling:
    """Causal language modelling for --mode pretrain: the model, its tokenizer and the form of its text."""

    config_class, model_class = GPT2Config, GPT2LMHeadModel
    positions = POSITIONS

    @staticmethod
    def tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
        """The same vocabulary in GPT-2's form: nothing added around a text, `<|endoftext|>` in the place of `</s>`."""
        from transformers import PreTrainedTokenizerFast

        if tokenizer.eos_token == END_OF_TEXT:
            return tokenizer
        parts = json.loads(tokenizer.backend_tokenizer.to_str())
        parts["post_processor"] = None
        parts["model"]["vocab"][END_OF_TEXT] = parts["model"]["vocab"].pop(tokenizer.eos_token)
        for token in parts["added_tokens"]:
            if token["content"] == tokenizer.eos_token:
                token["content"] = END_OF_TEXT
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(parts)),
            bos_token=END_OF_TEXT,
            eos_token=END_OF_TEXT,
            unk_token=END_OF_TEXT,
            pad_token=tokenizer.pad_token,
            mask_token=tokenizer.mask_token,
            clean_up_tokenization_spaces=False,
            model_input_names=["input_ids", "attention_mask"],
        )

    @staticmethod
    def config_fields(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        """GPT2Config's fields that follow from the tokenizer."""
        end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
        return {"bos_token_id": end, "eos_token_id": end, "pad_token_id": pad}

    @staticmethod
    def form(tokenizer: PreTrainedTokenizerFast, arguments: Arguments, held_out: bool) -> PretrainingForms:
        """The mix for training; plain text alone for held-out text, so that bits per byte are the language model's.

        Raises UserError for options of the mix's noise where there is no mix.
        """
        noise = {name: getattr(arguments, name) for name in ("mask_ratio", "span_mean", "permute_sentences")}
        for name, value in noise.items():
            if not arguments.text_to_text_share and value != getattr(Arguments, name):
                raise UserError(
                    f"--{name} {value}: does nothing to plain text; give --text_to_text_share, or leave it out"
                )
        return PretrainingForms(tokenizer, 0.0 if held_out else arguments.text_to_text_share, *noise.values())

    @staticmethod
    def start_copying(model: GPT2LMHeadModel, seed: int) -> None:
        """Set induction heads (copy_heads.py)."""
        start_copying(model, seed)
