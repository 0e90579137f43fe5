"""A prefix on disk: our own files, the authors' checkpoints, PEFT's.

    prefix.safetensors + prefix_config.json      ours: the form the prefix is in, and which base it belongs to
    original_files.py                            the authors' checkpoints
    peft_files.py                                PEFT's

Whatever is read is checked against the base that the prefix is put on.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from seq2seq.kept_files import checked_options, paths_of, read_config, read_weights, write_files
from seq2seq.original_files import copy_original, read_original
from seq2seq.peft_files import read_peft, write_peft
from seq2seq.prefix_attention import Site, find_sites
from seq2seq.prefix_parameters import fit
from seq2seq.prefix_positions import attention_window
from seq2seq.utils import UserError

NAME = "prefix"  # of our files: prefix.safetensors, prefix_config.json


class PrefixFiles:
    """A prefix's files: how PrefixTuning and PrefixEmbTuning are written and read."""

    form: str
    """What is trained: "activation" (keys and values) or "embedding" (input vectors)."""
    model: PreTrainedModel
    prefix: nn.ModuleDict
    sites: dict[str, Site]
    deep: bool
    infix: bool
    shift_positions: bool
    key_values: Any
    _classes: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        PrefixFiles._classes.setdefault(cls.form, cls)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `prefix.safetensors` and `prefix_config.json`, in the form the prefix is in.

        Raises UserError for a folder that cannot be made.
        """
        names = ("preseqlen", "mid_dim", "dropout", "shift_positions", "base_dropout")
        config = {"form": self.form, "sites": list(self.sites), **{name: getattr(self, name) for name in names}}
        if self.form == "activation":
            config |= {"deep": self.deep, "infix": self.infix}
        write_files(directory, self.prefix.state_dict(), config, self.model, NAME)

    @classmethod
    def from_pretrained(cls, directory: str | Path, model: PreTrainedModel) -> Any:
        """Read a saved prefix onto `model`, which must be the base it was trained on (its fingerprint is checked).

        What was saved decides the class: keys and values give PrefixTuning, input vectors PrefixEmbTuning. It comes in
        eval mode, as transformers' models do.
        Raises UserError for a missing or damaged file and for another base.
        """
        options, path = read_config(directory, model, NAME), paths_of(directory, NAME)[1]
        form = options.pop("form", "activation")
        if form not in list(cls._classes):
            raise UserError(f"{path}: form is {form!r:.60}, not {' or '.join(cls._classes)}; save the prefix again")
        kind = cls._classes[form]
        prefix = kind(model, **checked_options(path, options, kind))
        read_weights(directory, prefix.prefix, NAME)
        return prefix.eval()

    def load_original(self, checkpoint: Mapping[str, Tensor] | str | Path) -> None:
        """Load the authors' parameters from a state dict, a checkpoint file, or the folder that holds it.

        Their names are `wte` and `control_trans`; `wte2` is cross, or the infix in a decoder; `_enc` is the encoder.
        Sites that this prefix leaves out are not read.
        Raises UserError for a missing name, another shape, and a parameter that this prefix has no place for, naming
        them; then nothing is loaded.
        """
        left_out = find_sites(self.model).keys() - self.sites.keys()
        copy_original(read_original(checkpoint), dict(self.prefix.items()), left_out)  # type: ignore[arg-type]

    def to_peft(self, directory: str | Path) -> None:
        """Write the keys and values for PEFT: CAUSAL_LM, or SEQ_2_SEQ_LM for an encoder-decoder. PEFT keeps no MLP.

        In layers with a sliding window PEFT's prefix leaves it as the text goes on, ours does not: a warning says so.
        PEFT 0.21 loses every prefix where it generates on transformers 5.24 (not in its forward).
        Raises UserError, naming it, for what PEFT cannot hold: another site than the decoder's own attention, an
        infix, unshifted positions; and for a folder that cannot be made.
        """
        lost = [name for name in self.sites if name != "decoder"]
        if lost:
            raise UserError(
                f"to_peft: PEFT has no prefix in {' and '.join(lost)} attention, only in the decoder's own; "
                'train with sites=("decoder",)'
            )
        if self.infix:
            raise UserError("to_peft: PEFT has no infix; train a prefix")
        if not self.shift_positions:
            raise UserError("to_peft: with PEFT real token j has position P + j; train with shift_positions=True")
        if (window := attention_window(self.model)) < float("inf"):
            warnings.warn(
                f"to_peft: layers of this base see {window} tokens back; with PEFT the prefix counts among them and is "
                "no longer seen behind, here it is",
                stacklevel=2,
            )
        write_peft(directory, self.key_values()["decoder"], self.model)

    @classmethod
    def from_peft(cls, directory: str | Path, model: PreTrainedModel) -> Any:
        """Read a folder that PEFT's prefix tuning wrote, as a flat PrefixTuning of the decoder's own attention.

        Raises UserError for a missing or damaged file, another method than prefix tuning, and another shape.
        """
        value = read_peft(directory, find_sites(model)["decoder"], model.config.is_encoder_decoder).to(model.device)
        options = {"mid_dim": 0, "sites": ("decoder",), "shift_positions": True}
        prefix = cls._classes["activation"](model, value.shape[3], **options)
        fit(prefix.trained(), {"decoder": value})
        return prefix.eval()
