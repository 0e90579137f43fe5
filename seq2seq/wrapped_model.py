"""A frozen base model with something put into it, as transformers' Trainer and PyTorch see it.

PrefixTuning and AdapterTuning are such models: they are called as their base is, and only what is trained is stored.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from seq2seq.checkpointing import keep_no_activations
from seq2seq.losses import WantedLoss
from seq2seq.utils import UserError

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel
    from typing_extensions import Self


_set_by: weakref.WeakKeyDictionary[Any, weakref.ref[Any]] = weakref.WeakKeyDictionary()  # a base's mode: by which model
_calls: weakref.WeakKeyDictionary[Any, Counter[bool]] = weakref.WeakKeyDictionary()  # on a base now: does it drop out?
_entering = threading.Lock()


def in_own_mode(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a WrappedModel during which its base is in its mode, whichever model on it was called before.

    Raises UserError in a copy that nn.DataParallel makes: what finds its place by the base's modules is lost there;
    and while another model is within the base, whose dropout is on where this one's is off.
    """

    @wraps(method)
    def called(self: WrappedModel, *args: Any, **options: Any) -> Any:
        with self._in_own_mode():
            return method(self, *args, **options)

    return called


class WrappedModel(nn.Module):
    """What transformers' Trainer and Seq2SeqTrainer ask a model for, answered by the base in `self.model`.

    `state_dict()` leaves a frozen base out, and `load_state_dict` needs none.
    """

    model: PreTrainedModel
    base_dropout: bool  # whether the base is in training mode, and drops out, while what is put into it trains

    def __init__(self) -> None:
        super().__init__()
        self.register_state_dict_post_hook(_without_frozen_base)
        self.register_load_state_dict_pre_hook(_with_own_base)

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; the base stays in evaluation mode where it is not to drop out."""
        if self.base_dropout:
            super().train(mode)
        else:  # the base not even for a moment: another thread may be within it
            self.training = mode
            for child in self.children():
                if child is not self.model:
                    child.train(mode)
            self.model.eval()
            self.model.get_input_embeddings().train(mode)  # drops nothing out; where it trains NEFTune adds its noise
        _set_by[self.model] = weakref.ref(self)
        return self

    @contextmanager
    def _in_own_mode(self) -> Iterator[None]:
        if getattr(self, "_is_replica", False):
            raise UserError(
                "nn.DataParallel copies a model in every step and loses what is in its attention; start one process "
                "for each GPU (torchrun, accelerate launch), or show one GPU alone (CUDA_VISIBLE_DEVICES=0)"
            )
        if torch.compiler.is_compiling():
            self._set_mode_again()
            yield
            return
        drops_out = self.training and self.base_dropout
        with _entering:
            calls = _calls.setdefault(self.model, Counter())
            if calls[not drops_out]:
                raise UserError(
                    "another model on the same base is within a call, one in training mode and one not, and the base "
                    "cannot drop out and not drop out; call one after the other, or give each a base of its own"
                )
            self._set_mode_again()
            calls[drops_out] += 1
        try:
            yield
        finally:
            with _entering:
                calls[drops_out] -= 1

    def _set_mode_again(self) -> None:
        last = _set_by.get(self.model)
        if last is not None and last() is not self:
            self.train(self.training)

    @property
    def config(self) -> Any:
        """The base model's configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The base's precision."""
        return self.model.dtype

    @property
    def generation_config(self) -> GenerationConfig:
        """What `generate` does where no option is given."""
        return self.model.generation_config  # type: ignore[return-value]

    @generation_config.setter
    def generation_config(self, config: GenerationConfig) -> None:
        self.model.generation_config = config

    def get_input_embeddings(self) -> nn.Module:
        """The base's token embeddings; Trainer's NEFTune asks for them."""
        return self.model.get_input_embeddings()

    def compute_transition_scores(self, *args: Any, **options: Any) -> torch.Tensor:
        """The base's: the score of each token that `generate` gave, from its scores and beam indices."""
        return self.model.compute_transition_scores(*args, **options)  # type: ignore[operator]

    def can_generate(self) -> bool:
        """Whether the base does; transformers' pipelines ask."""
        return self.model.can_generate()

    @property
    def loss_type(self) -> Any:
        """The base's; by it Trainer knows how to count the tokens of accumulated batches."""
        return self.model.loss_type

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Whether the loss is divided by `num_items_in_batch`; where it is not, Trainer averages over batches."""
        return self._has_own_loss() or not self.config.is_encoder_decoder and _takes_loss_options(self.model)

    def _has_own_loss(self) -> bool:
        """Whether `labels` mean the next tokens and nothing else.

        Encoder-decoders, classifiers, masked language models, routers and a `loss_function` of the user's have losses
        that the base itself computes.
        """
        has_router_loss = getattr(self.config, "output_router_logits", False)
        is_decoder = not self.config.is_encoder_decoder and self.model.get_output_embeddings() is not None
        return is_decoder and not has_router_loss and _loss_is_of_next_tokens(self.model)

    def _wanted_loss(self, inputs: dict[str, Any]) -> WantedLoss | None:
        """The loss that is computed here, taken out of a forward's inputs; None where the base has it, or nobody."""
        is_bases = inputs.get("shift_labels") is not None or inputs.get("output_router_logits")
        return None if is_bases or not self._has_own_loss() else WantedLoss.take(inputs)

    def _get_name(self) -> str:
        """The base's: by it Trainer tells whether label smoothing has to shift the labels."""
        return self.model._get_name()

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """The base's gradient checkpointing and its options, not reentrant where nothing is said."""
        keep_no_activations(self.model, activation_checkpointing_kwargs, **options)

    def activation_checkpointing_disable(self) -> None:
        """Keep all activations again."""
        model = self.model
        (getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable)()

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """`activation_checkpointing_enable` by the name that transformers had for it."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def gradient_checkpointing_disable(self) -> None:
        """`activation_checkpointing_disable` by the name that transformers had for it."""
        self.activation_checkpointing_disable()

    @property
    def prepare_decoder_input_ids_from_labels(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The base's, if it has one: labels (B, T) shifted right, for transformers' collator of such batches."""
        return self.model.prepare_decoder_input_ids_from_labels  # type: ignore[return-value]


def _loss_is_of_next_tokens(model: Any) -> bool:
    """Whether a base's `loss_function` is transformers' of causal language models; asked itself, GPT-2's warns."""
    from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

    own = getattr(model, "_loss_function", None)
    return (own or LOSS_MAPPING.get(model.loss_type, ForCausalLMLoss)) is ForCausalLMLoss


def _takes_loss_options(model: Any) -> bool:
    """Whether transformers' Trainer gives a base `num_items_in_batch`, by its own rule."""
    parameters = inspect.signature(model.forward).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return getattr(model, "accepts_loss_kwargs", takes_any)


def refuse_wrapped(model: Any) -> None:
    """Raise UserError for a model that has something put into it already, in place of its base, or that is none."""
    from transformers import PreTrainedModel

    if isinstance(model, WrappedModel):
        kind = type(model).__name__
        raise UserError(f"model: is a {kind} already; give its base, which {kind}.detach() returns")
    if not isinstance(model, PreTrainedModel):
        raise UserError(f"model: is a {type(model).__name__}; give a model of transformers")


def _without_frozen_base(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Leave a frozen base out, and of one that is trained the second names of tied weights: a file holds them once."""
    of_base = {name: value for name, value in state.items() if name.startswith(f"{prefix}model.")}
    is_trained = any(parameter.requires_grad for parameter in module.model.parameters())
    for name in _second_names(of_base) if is_trained else of_base:
        del state[name]


def _with_own_base(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    own = module.model.state_dict()
    first = _second_names(own)
    for name, value in own.items():
        given = state.get(f"{prefix}model.{first.get(name, name)}", value)
        state.setdefault(f"{prefix}model.{name}", given)


def _second_names(state: dict[str, Any]) -> dict[str, str]:
    """The names of tensors that share their numbers with one before them (tied weights), and that one's name."""
    names: dict[Any, str] = {}
    second = {}
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and value.device.type != "meta" and value.numel():
            first = names.setdefault((value.device, value.data_ptr(), value.shape, value.stride()), name)
            if first != name:
                second[name] = first
    return second
