"""Prefix-tuning (Li & Liang 2021): P learned key and value vectors in front of those of every frozen attention layer.

              h_i = P_θ[i]                 for i in the prefix            (paper, equation 3)
              h_i = LM_φ(z_i, h_<i)        for the real tokens, φ frozen

              reparametrised (equation below 3, section 4.3):  P_θ = MLP(E),   E: P × width

    BART    encoder ──[P|S]──┐                 three independent prefixes: encoder self, decoder self, decoder cross
            decoder ──[P|T]──┴─[P|S]── logits
    GPT-2           ──[P|S+T]───────── logits  one prefix; real token j has position P + j
    infix           ──[S|P|T]───────── logits  decoders; the source does not see the prefix behind it

    E ──Linear──Tanh──(Linear──Tanh, deep)──Linear──► P × (2·L·d) ──► L layers × (key, value) × H × P × D
    E ──Linear──Tanh──Linear──► P × width ──LM_φ──► the same     (PrefixEmbTuning)

Shapes: B batch, L layers, H key/value heads, P prefix length, D head width, d = H·D, S source and T target length.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from seq2seq.checkpointing import checkpoint_all
from seq2seq.generation import generate
from seq2seq.hooks import own_call
from seq2seq.prefix_attention import (
    KEYWORD,
    LivePrefix,
    Site,
    disable_prefix,
    enable_prefix,
    find_sites,
    inject,
    own_prefix,
    prefix_attention,
)
from seq2seq.prefix_computed import (
    as_evaluated,
    check_sources,
    ids_of_words,
    infix_behind_source,
    key_values_of_vectors,
    vectors_of_words,
)
from seq2seq.prefix_files import PrefixFiles
from seq2seq.prefix_parameters import InputVectors, Parametrisation, SitePrefix, fit
from seq2seq.prefix_positions import check_positions, positions_behind, shifted_stacks, stacks_to_shift
from seq2seq.stacks import layers_of, share_left_out, stacks_of
from seq2seq.utils import UserError, at_least_float32, by_name, cache_of
from seq2seq.wrapped_model import WrappedModel, in_own_mode, refuse_wrapped


class DefaultLength(int):
    """The default prefix length, which can be told from the same number given by a caller."""


DEFAULT_LENGTH = DefaultLength(5)  # the authors' for WebNLG and DART


class PrefixTuning(PrefixFiles, WrappedModel):
    """A frozen base model with a learned prefix in front of the keys and values of its attention.

    It starts in the base's mode: on a base in eval mode, as `from_pretrained` gives it, call `train()` before training.

    Args:
        model: BART or another encoder-decoder of its layout, GPT-2 or another decoder. It is frozen.
        preseqlen: prefix length P; where none is given, `init_from_text` takes the text's.
        mid_dim: width of the reparametrising MLP; 0 = flat, no MLP.
        deep: one more hidden layer in the MLP.
        sites: of "encoder", "decoder", "cross"; None = all the model has.
        dropout: on the produced keys and values, per example and site, in training.
        shift_positions: real token j gets position P + j; None = as the authors: yes for decoders, no for BART.
        base_dropout: the base's own dropout in training; None = as the authors: off for decoders, on for BART.
        infix: the prefix stands between source and target: learned keys and values, added to those that the base
            computes for P learned input vectors behind the source. For decoders.

    Raises:
        UserError: a value out of range, unknown site, a model whose attention cannot hold a prefix or that holds one
            already, positions that cannot be shifted.
    Source: Li & Liang 2021, sections 4.2, 4.3; infix: section 7.3.
    """

    form = "activation"

    def __init__(
        self,
        model: PreTrainedModel,
        preseqlen: int = DEFAULT_LENGTH,
        mid_dim: int = 512,
        deep: bool = False,
        sites: Sequence[str] | None = None,
        dropout: float = 0.0,
        shift_positions: bool | None = None,
        base_dropout: bool | None = None,
        infix: bool = False,
    ) -> None:
        super().__init__()
        refuse_wrapped(model)
        for name, value in (("preseqlen", preseqlen), ("mid_dim", mid_dim)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise UserError(f"{name} {value!r}: is a {type(value).__name__}; give a whole number")
        if preseqlen < 1:
            raise UserError(f"preseqlen {preseqlen}: a prefix has at least one vector")
        if mid_dim < 0:
            raise UserError(f"mid_dim {mid_dim}: an MLP is at least 1 wide; give that, or 0 for none")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout {dropout}: is a share, at least 0 and below 1")
        available = find_sites(model)
        sites = (sites,) if isinstance(sites, str) else sites
        unknown = [name for name in sites or () if name not in list(available)]
        if unknown or sites is not None and not sites:
            has = f"{type(model).__name__} has {', '.join(available)}"
            raise UserError(f"sites {list(sites or ())}: {has}; give some of these, or null for all")
        is_decoder = not model.config.is_encoder_decoder
        if infix and not is_decoder:
            raise UserError("infix: an encoder-decoder reads its source in the encoder; an infix is for decoders")
        if infix and shift_positions is False:
            raise UserError("infix: its positions follow the source's; leave shift_positions out")
        if infix and len(available["decoder"].modules) < len(layers_of(model.base_model)):
            raise UserError(
                f"infix: {type(model).__name__} has layers without attention, which would not know the source; "
                "train a prefix, or take another base"
            )
        self.model = model.requires_grad_(False)
        enable_prefix(model)
        self.sites = {name: site for name, site in available.items() if sites is None or name in sites}
        self.length_given = not isinstance(preseqlen, DefaultLength)
        self.preseqlen, self.mid_dim, self.deep, self.dropout = int(preseqlen), mid_dim, deep, dropout
        self.shift_positions = is_decoder if shift_positions is None else shift_positions
        self.base_dropout = not is_decoder if base_dropout is None else base_dropout
        self.infix = infix
        self.shifted = stacks_to_shift(model, self.sites) if self.shift_positions and not is_decoder else []
        if self.shift_positions:
            check_positions(model, self.preseqlen, 1)
        self.prefix = nn.ModuleDict(self._make()).to(model.device, at_least_float32(model.dtype))
        self.train(model.training)

    def _make(self) -> dict[str, Parametrisation]:
        """The modules that are trained."""
        made: dict[str, Parametrisation] = {
            name: SitePrefix(site, self.preseqlen, self.mid_dim, self.deep) for name, site in self.sites.items()
        }
        if self.infix:
            made["infix"] = InputVectors(self.preseqlen, self.sites["decoder"].width, mid_dim=0)
        return made

    # -- the prefix itself ------------------------------------------------------------------------------------------

    def key_values(self) -> dict[str, Tensor]:
        """The learned keys and values of each site (L, 2, H, P, D), without dropout."""
        return {name: self.prefix[name]() for name in self.sites}

    def past_key_values(
        self, source_ids: Tensor | None = None, source_attention_mask: Tensor | None = None
    ) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """Per site and layer the prefix's (key, value), each (H, P, D), without dropout.

        With sources (B, S), an infix's are those of [source; infix], each (B, H, S + P, D).
        """
        if source_ids is not None:
            live = self._behind(source_ids, source_attention_mask, dropout=0.0)
            return {"decoder": [live.key_values[module] for module in self.sites["decoder"].modules]}
        return {name: [(layer[0], layer[1]) for layer in layers] for name, layers in self.key_values().items()}

    def trained(self) -> dict[str, Parametrisation]:
        """What is trained: a module for each site, stack of input vectors, or infix."""
        return dict(self.prefix.items())  # type: ignore[arg-type]

    def num_prefix_parameters(self) -> int:
        """Numbers that are kept after training: keys and values (and an infix's input vectors), the MLP dropped."""
        kept = [len(s.modules) * 2 * s.heads * self.preseqlen * s.head_dim for s in self.sites.values()]
        return sum(kept) + (self.preseqlen * self.sites["decoder"].width if self.infix else 0)

    def init_from_text(self, text: str, tokenizer: Any) -> float:
        """Start with the keys and values that the base computes for a text: exact when flat, fitted by an MLP.

        P becomes the text's number of tokens, special ones not added; where P was given, the tokens are repeated or
        cut. An encoder-decoder's decoder reads the text too, attending to the encoder's output of it. An infix starts
        as the text behind the source. Call it before making the optimiser.
        Returns the mean squared error that the fit leaves.
        Raises UserError for a text without tokens, or with tokens that the base does not know.
        Source: Li & Liang 2021, section 7.4; the fit is the authors' `lowdata_init_train3`.
        """
        ids = ids_of_words(text, tokenizer, self.model)
        length = self.preseqlen if self.length_given else len(ids)
        check_positions(self.model, length, int(self.shift_positions))  # the base reads the words
        modules = self.trained()
        for module in modules.values():
            module.resize(length)
        self.preseqlen = length
        with as_evaluated(self.model), torch.no_grad():
            targets = self._targets(vectors_of_words(self.model, (ids * (length // len(ids) + 1))[:length]))
        like = next(self.prefix.parameters())
        return fit(modules, {name: target.to(like) for name, target in targets.items()})

    def _targets(self, words: dict[str, Tensor]) -> dict[str, Tensor]:
        """What each module should give so that words (1, P, width) stand in the prefix's place."""
        if self.infix:
            return {"decoder": torch.zeros_like(self.prefix["decoder"]()), "infix": words["decoder"][0]}
        return {name: x[:, :, 0] for name, x in key_values_of_vectors(self.model, self.sites, words).items()}

    def collapse(self) -> PrefixTuning:
        """Drop the MLP and keep its keys and values; forward and generation are unchanged. Returns self."""
        with torch.no_grad():
            kept = {name: x.clone(memory_format=torch.contiguous_format) for name, x in self.key_values().items()}
        flat: dict[str, nn.Module] = {}
        for name, value in kept.items():
            flat[name] = SitePrefix(self.sites[name], self.preseqlen, 0, False).to(value.device, value.dtype)
            flat[name].key_values = nn.Parameter(value)
        if self.infix:
            flat["infix"] = self.prefix["infix"]
        self.prefix = nn.ModuleDict(flat)
        self.mid_dim, self.deep, self.form = 0, False, "activation"
        return self

    def detach(self) -> PreTrainedModel:
        """Take the prefix off: the base with its stock attention, still frozen."""
        disable_prefix(self.model)
        return self.model

    # -- the model with its prefix ----------------------------------------------------------------------------------

    @in_own_mode
    def forward(self, *args: Any, labels: Tensor | None = None, **inputs: Any) -> Any:
        """The base model's forward with the prefix in place; same arguments and output class.

        `position_ids`, where given, are those of the real tokens; P is added to them in decoders.
        An infix takes `source_ids`, `source_attention_mask` (B, S) too, and `input_ids` are then the target. Pad its
        sources on the left: padding on the right takes positions, as in the authors' code.
        Raises UserError when P + length exceeds the position table, or what an infix is within a base's window; for
        another number of an infix's sources than targets; and while the base computes in another mode (in_own_mode).
        """
        enable_prefix(self.model)
        if labels is not None:
            inputs["labels"] = labels
        inputs = by_name(self.model.forward, args, inputs)
        live = self._live(inputs)
        wanted = self._wanted_loss(inputs)
        checkpoints = checkpoint_all(self.model, self.training, partial(prefix_attention, self.model), own_prefix)
        with own_call(), shifted_stacks(self.model, self.shifted, self.preseqlen), checkpoints as checkpointed:
            if checkpointed:
                inputs["use_cache"] = False  # a replayed layer would fill it twice
            output = self.model(**self._with_prefix(inputs, live))
        live.check_reached(self._sites_used(inputs))
        return output if wanted is None else wanted.added_to(output)

    @in_own_mode
    @torch.no_grad()
    def generate(self, *args: Any, **options: Any) -> Any:
        """transformers' `generate` and its options with the prefix in place; returns what it returns.

        An infix takes `source_ids`, `source_attention_mask` (B, S) too, and `input_ids` start the target; without
        them the base's bos token does.
        """
        if isinstance(options.get("assistant_model"), WrappedModel):
            raise UserError("assistant_model: give a model without a prefix, or generate without an assistant")
        enable_prefix(self.model)
        source_ids, bos = options.get("source_ids"), getattr(self.config, "bos_token_id", None)
        if source_ids is not None and bos is not None and not args and not options.keys() & {"input_ids", "inputs"}:
            start = source_ids.new_full((len(source_ids), 1), bos)
            options |= {"input_ids": start, "attention_mask": torch.ones_like(start)}
        live = self._live(options).laid_out(self.model.dtype)
        with (
            own_call(),
            shifted_stacks(self.model, self.shifted, self.preseqlen),
            inject(self.model, lambda inputs: self._with_prefix(inputs, live, trusted=True)),
        ):
            output = generate(self.model, *args, prefix=live, **options)
        live.check_reached(self._sites_used(options))
        return output

    def _sites_used(self, inputs: dict[str, Any]) -> list[Site]:
        idle = {"encoder"} if inputs.get("encoder_outputs") is not None else set()  # it does not run again
        for name, stack in stacks_of(self.model).items():
            if stack.training and share_left_out(stack):  # any of its layers may not have run
                idle |= {name, "cross"} if name == "decoder" else {name}
        return [site for name, site in self.sites.items() if name not in idle]

    def _live(self, inputs: dict[str, Any]) -> LivePrefix:
        """The prefix for these inputs; takes an infix's source out of them."""
        source_ids, source_mask = inputs.pop("source_ids", None), inputs.pop("source_attention_mask", None)
        dropout = self.dropout if self.training else 0.0
        if self.infix:
            names = ("input_ids", "inputs", "inputs_embeds")
            targets = next((len(inputs[name]) for name in names if inputs.get(name) is not None), None)
            return self._behind(source_ids, source_mask, dropout, targets)
        for name, given in (("source_ids", source_ids), ("source_attention_mask", source_mask)):
            if given is not None:
                raise UserError(f"{name}: only an infix stands behind a source; make the prefix with infix=True")
        return self._in_front(self.key_values(), dropout)  # the MLP runs once per step, whatever the batch

    def _in_front(self, key_values: dict[str, Tensor], dropout: float) -> LivePrefix:
        by_module = {
            module: (layer[0], layer[1])
            for name, site in self.sites.items()
            for module, layer in zip(site.modules, key_values[name].unbind(0), strict=True)
        }
        return LivePrefix(by_module, dropout, start=self.preseqlen)

    def _behind(
        self, source_ids: Tensor | None, source_mask: Tensor | None, dropout: float, targets: int | None = None
    ) -> LivePrefix:
        if source_ids is None or not self.infix:
            raise UserError(
                "source_ids: an infix (infix=True) stands behind a source; give source_ids, and without an infix none"
            )
        mask = torch.ones_like(source_ids) if source_mask is None else source_mask
        check_sources(source_ids, mask, targets)
        learned, vectors = self.prefix["decoder"](), self.prefix["infix"]()
        if dropout > 0.0:
            learned = nn.functional.dropout(learned[:, :, None].expand(-1, -1, len(mask), -1, -1, -1), dropout)
        return infix_behind_source(self.model, self.sites["decoder"], learned, vectors, source_ids, mask)

    def _with_prefix(self, inputs: dict[str, Any], live: LivePrefix, trusted: bool = False) -> dict[str, Any]:
        inputs = {**inputs, KEYWORD: live.beside(cache_of(inputs))}
        if self.shift_positions and not self.shifted:
            inputs["position_ids"] = positions_behind(live, inputs, self.model, self.preseqlen, trusted)
        return inputs


class PrefixEmbTuning(PrefixTuning):
    """A frozen base model whose prefix is what it makes of P learned input vectors; else as PrefixTuning.

    A decoder reads them at positions 0..P-1. An encoder-decoder has P for each stack: the decoder reads its own while
    it attends to what the encoder makes of the encoder's.

    Args:
        mid_dim: width of the MLP that makes the vectors; 0 = the table alone.
        dropout: on the input vectors, per example, in training.
        model, preseqlen, sites, shift_positions, base_dropout: as PrefixTuning's.
    Source: Li & Liang 2021, section 7.2.
    """

    form = "embedding"

    def __init__(
        self,
        model: PreTrainedModel,
        preseqlen: int = DEFAULT_LENGTH,
        mid_dim: int = 512,
        sites: Sequence[str] | None = None,
        dropout: float = 0.0,
        shift_positions: bool | None = None,
        base_dropout: bool | None = None,
    ) -> None:
        super().__init__(model, preseqlen, mid_dim, False, sites, dropout, shift_positions, base_dropout)
        check_positions(model, self.preseqlen, 0)  # the base reads the vectors

    def _make(self) -> dict[str, Parametrisation]:
        available = find_sites(self.model)
        # The decoder attends to the encoder's vectors, whichever site has a prefix.
        stacks = [name for name in available if name == "encoder" or name == "decoder" and name in self.sites]
        return {name: InputVectors(self.preseqlen, available[name].width, self.mid_dim) for name in stacks}

    def key_values(self) -> dict[str, Tensor]:
        """The keys and values of each site (L, 2, H, P, D), without dropout: the base runs over the vectors."""
        if self.form == "activation":
            return super().key_values()
        with as_evaluated(self.model):
            return {name: x[:, :, 0] for name, x in self._computed(batch=1, dropout=0.0).items()}

    def _computed(self, batch: int, dropout: float) -> dict[str, Tensor]:
        vectors = {name: module().expand(batch, -1, -1) for name, module in self.prefix.items()}
        dropped = {name: nn.functional.dropout(x, dropout) if dropout else x for name, x in vectors.items()}
        return key_values_of_vectors(self.model, self.sites, dropped)

    def _live(self, inputs: dict[str, Any]) -> LivePrefix:
        given = [inputs[name] for name in ("input_ids", "inputs_embeds", "labels") if inputs.get(name) is not None]
        if self.form == "activation" or not self.training or not given or "source_ids" in inputs:
            return super()._live(inputs)
        computed = self._computed(len(given[0]) if self.dropout else 1, self.dropout)
        return self._in_front({n: x if self.dropout else x[:, :, 0] for n, x in computed.items()}, dropout=0.0)

    def _targets(self, words: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.form == "activation":
            return super()._targets(words)
        return {name: words[name][0] for name in self.prefix}
