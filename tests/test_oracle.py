"""The method computes what the authors' code computes: every number of `oracle/` (see its meta.json).

The numbers come from the authors' implementation run on tiny random models. Compared are BART rows where the label is
not padding and GPT-2 rows where the attention mask is 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    get_linear_schedule_with_warmup,
)

from seq2seq.original_files import ORIGINAL
from seq2seq.prefixTuning import PrefixEmbTuning, PrefixTuning

ORACLE = Path(__file__).parent / "oracle"
META = json.loads((ORACLE / "meta.json").read_text())
GPT2_CASES = {"gpt2_p5": PrefixTuning, "gpt2_emb_mlp_p5": PrefixEmbTuning}
BART_SITES = {"encoder": "enc_self", "decoder": "dec_self", "cross": "dec_cross"}
EXACT = 1e-10
FLOAT32 = 2e-5


@dataclass
class Case:
    """One oracle case: our prefix holding the authors' parameters, the inputs, and their numbers."""

    prefix: PrefixTuning
    inputs: dict[str, Tensor]
    golden: dict[str, Tensor]

    def batch(self, name: str) -> dict[str, Tensor]:
        """A BART batch; labels on padding become -100."""
        batch = {key: self.inputs[f"{name}.{key}"] for key in ("input_ids", "attention_mask", "labels")}
        return {**batch, "labels": batch["labels"].masked_fill(batch["labels"] == 1, -100)}

    def rows(self) -> dict[str, Tensor]:
        """The GPT-2 batch, without labels."""
        return {key: self.inputs[key] for key in ("input_ids", "attention_mask")}

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The prefix's parameters under the authors' names."""
        for name, parameter in self.prefix.prefix.named_parameters():
            site, part = name.split(".", 1)
            embedding, mlp = ORIGINAL[site]
            yield (f"{embedding}.weight" if part == "embedding" else mlp + part.removeprefix("mlp")), parameter

    def check_gradients(self, loss: Tensor, golden: str) -> None:
        self.prefix.zero_grad()
        loss.backward()
        for name, parameter in self.parameters():
            close(parameter.grad, self.golden[f"{golden}.{name}"], EXACT)


def load(case: str, attention: str, dtype: torch.dtype) -> Case:
    family = case.split("_")[0]
    config, model = (BartConfig, BartForConditionalGeneration) if family == "bart" else (GPT2Config, GPT2LMHeadModel)
    base = model._from_config(config(**META[f"{family}_config"]), attn_implementation=attention)
    base.load_state_dict(load_file(ORACLE / f"{family}_base.safetensors"), strict=True)
    shape = META["cases"][case]["prefix"]
    prefix = GPT2_CASES.get(case, PrefixTuning)(base, preseqlen=shape["preseqlen"], mid_dim=shape["mid_dim"])
    prefix.load_original(load_file(ORACLE / f"{case}_prefix.safetensors"))
    return Case(
        prefix.to(dtype).eval(),
        load_file(ORACLE / f"{family}_inputs.safetensors"),
        load_file(ORACLE / f"{case}.safetensors"),
    )


@pytest.fixture(params=["sdpa", "eager"])
def attention(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def bart(attention: str) -> Case:
    return load("bart_p5", attention, torch.float64)


@pytest.fixture(params=GPT2_CASES)
def gpt2(attention: str, request: pytest.FixtureRequest) -> Case:
    return load(request.param, attention, torch.float64)


def close(ours: Tensor | None, theirs: Tensor, tolerance: float) -> None:
    assert ours is not None and ours.shape == theirs.shape
    torch.testing.assert_close(ours.detach(), theirs, atol=tolerance, rtol=0.0, check_dtype=False)


def row_losses(prefix: PrefixTuning, rows: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy summed over each row's target tokens (B): GPT-2's objective 1."""
    logits = prefix(**rows).logits[:, :-1].transpose(1, 2)
    return nn.functional.cross_entropy(logits, labels[:, 1:], reduction="none").sum(1)


def check_trajectory(case: Case, loss_of: Callable[[], Tensor], clip: float | None) -> None:
    """Ten steps of AdamW with linear decay from 1e-2 take the authors' way."""
    parameters = list(case.prefix.prefix.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, eps=1e-8, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, 10)
    losses, rates, norms = [], [], []
    for step in range(1, 11):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(parameters, clip if clip is not None else float("inf")))
        losses.append(loss.detach())
        rates.append(optimizer.param_groups[0]["lr"])
        # The authors' AdamW adds epsilon before it corrects the second moment's bias, torch's after.
        optimizer.param_groups[0]["eps"] = 1e-8 / (1 - 0.999**step) ** 0.5
        optimizer.step()
        schedule.step()
    close(torch.tensor(rates, dtype=torch.float64), case.golden["traj.lr"], EXACT)
    close(torch.stack(losses), case.golden["traj.loss"], EXACT)
    close(torch.stack(norms), case.golden["traj.grad_norm"], EXACT)
    for name, parameter in case.parameters():
        close(parameter, case.golden[f"traj.final.{name}"], EXACT)


class TestBart:
    def test_keys_and_values_of_every_site_and_layer(self, bart: Case) -> None:
        for site, layers in bart.prefix.past_key_values().items():
            assert len(layers) == META["bart_config"]["encoder_layers"]
            for number, (key, value) in enumerate(layers):
                close(key, bart.golden[f"kv.{BART_SITES[site]}.{number}.key"], EXACT)
                close(value, bart.golden[f"kv.{BART_SITES[site]}.{number}.value"], EXACT)

    @pytest.mark.parametrize("name", ["padded", "full"])
    def test_loss_logits_encoder_output_and_gradients(self, bart: Case, name: str) -> None:
        batch = bart.batch(name)
        output = bart.prefix(**batch)
        target, source = batch["labels"] != -100, batch["attention_mask"] == 1
        close(output.logits[target], bart.golden[f"{name}.logits"][target], EXACT)
        encoded = bart.golden[f"{name}.encoder_last_hidden_state"]
        close(output.encoder_last_hidden_state[source], encoded[source], EXACT)
        close(output.loss, bart.golden[f"{name}.loss"], EXACT)
        bart.check_gradients(output.loss, f"{name}.grad")

    @pytest.mark.parametrize("name", ["padded", "full"])
    def test_label_smoothing_summed_over_tokens(self, bart: Case, name: str) -> None:
        batch = bart.batch(name)
        logits = bart.prefix(**batch).logits
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum", label_smoothing=0.1
        )
        close(loss, bart.golden[f"{name}.loss_ls0.1"], EXACT)
        bart.check_gradients(loss, f"{name}.grad_ls0.1")

    @pytest.mark.parametrize("name", ["padded", "full"])
    def test_float32_logits(self, attention: str, name: str) -> None:
        bart = load("bart_p5", attention, torch.float32)
        batch = bart.batch(name)
        target = batch["labels"] != -100
        close(bart.prefix(**batch).logits[target], bart.golden[f"{name}.logits_f32"][target], FLOAT32)

    def test_ten_training_steps(self, bart: Case) -> None:
        check_trajectory(bart, lambda: bart.prefix(**bart.batch("padded")).loss, clip=None)

    @pytest.mark.parametrize("name", ["padded", "full"])
    @pytest.mark.parametrize("setting", META["generation_settings"]["bart"])
    def test_generated_ids(self, bart: Case, setting: str, name: str) -> None:
        source = {key: bart.inputs[f"{name}.{key}"] for key in ("input_ids", "attention_mask")}
        options = dict(META["generation_settings"]["bart"][setting])
        if setting == "greedy":
            options["forced_eos_token_id"] = None  # the authors' greedy search did not force </s> at the end
        if setting == "beam4_lp2":
            options["count_prompt"] = True  # where long outputs gain most, today's search ends before the authors' does
        generated = bart.prefix.generate(**source, **options)
        assert generated.tolist() == bart.golden[f"{name}.gen.{setting}"].tolist()


class TestGPT2:
    def test_keys_and_values_of_every_layer(self, gpt2: Case) -> None:
        layers = gpt2.prefix.past_key_values()["decoder"]
        assert len(layers) == META["gpt2_config"]["n_layer"]
        for number, (key, value) in enumerate(layers):
            close(key, gpt2.golden[f"kv.{number}.key"], EXACT)
            close(value, gpt2.golden[f"kv.{number}.value"], EXACT)

    def test_logits_loss_and_gradients_of_objective_0(self, gpt2: Case) -> None:
        output = gpt2.prefix(**gpt2.rows(), labels=gpt2.inputs["labels"])
        real = gpt2.inputs["attention_mask"] == 1
        close(output.logits[real], gpt2.golden["logits"][real], EXACT)
        close(output.loss, gpt2.golden["loss_objective0"], EXACT)
        gpt2.check_gradients(output.loss, "grad_objective0")

    def test_row_sums_of_objective_1(self, gpt2: Case) -> None:
        losses = row_losses(gpt2.prefix, gpt2.rows(), gpt2.inputs["labels"])
        close(losses, gpt2.golden["loss_objective1"], EXACT)
        gpt2.check_gradients(losses.mean(), "grad_objective1")

    def test_the_authors_other_objectives_divide_the_row_sums(self, gpt2: Case) -> None:
        labels = gpt2.inputs["labels"]
        sums, longest = row_losses(gpt2.prefix, gpt2.rows(), labels), (labels[:, 1:] != -100).sum(1).max()
        for number, divisor in ((2, labels.shape[1] - 1), (3, longest), (4, labels.shape[1])):
            close(sums / divisor, gpt2.golden[f"loss_objective{number}"], EXACT)

    @pytest.mark.parametrize("case", GPT2_CASES)
    def test_float32_logits(self, attention: str, case: str) -> None:
        gpt2 = load(case, attention, torch.float32)
        real = gpt2.inputs["attention_mask"] == 1
        close(gpt2.prefix(**gpt2.rows()).logits[real], gpt2.golden["logits_f32"][real], FLOAT32)

    def test_ten_training_steps(self, gpt2: Case) -> None:
        check_trajectory(gpt2, lambda: row_losses(gpt2.prefix, gpt2.rows(), gpt2.inputs["labels"]).mean(), clip=1.0)

    @pytest.mark.parametrize("row", range(4))
    @pytest.mark.parametrize("setting", META["generation_settings"]["gpt2"])
    def test_generated_ids(self, gpt2: Case, setting: str, row: int) -> None:
        prompt = gpt2.inputs[f"prompt.{row}"]
        generated = gpt2.prefix.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_length=20 + prompt.shape[1],
            pad_token_id=META["gpt2_pad_token_id"],
            count_prompt=True,  # the authors' library did
            **META["generation_settings"]["gpt2"][setting],
        )
        assert generated.tolist() == gpt2.golden[f"gen.{setting}.{row}"].tolist()

    @pytest.mark.parametrize("setting", META["generation_settings"]["gpt2"])
    def test_log_probabilities_of_the_generated_ids(self, gpt2: Case, setting: str) -> None:
        for row in range(4):
            ids, prompt = gpt2.golden[f"gen.{setting}.{row}"], gpt2.inputs[f"prompt.{row}"].shape[1]
            log_probabilities = gpt2.prefix(input_ids=ids).logits[:, :-1].log_softmax(-1)
            chosen = log_probabilities.gather(2, ids[:, 1:, None])[:, prompt - 1 :]
            close(chosen.sum(), gpt2.golden[f"gen.{setting}.{row}.sum_logprob"], EXACT)
