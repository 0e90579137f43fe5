"""Every shipped recipe is read, says the paper's figures, and gives way to flags."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from seq2seq.arguments import ABOUT_THE_CALL, CONFIGS, MAY_CHANGE, Arguments, PretrainArguments, located, recipe_of
from seq2seq.effect import NOT_IN_PRETRAINING, OF_PRETRAINING, ONLY_IN
from seq2seq.parsing import parse
from seq2seq.runs import Run
from seq2seq.tasks import TASKS, task_for
from seq2seq.utils import UserError

RECIPES = sorted(CONFIGS.glob("*.yaml"))
NAMES = {field.name for field in fields(Arguments)}
SPEAKS_FOR_ITSELF = ("mode", "task", "model_name_or_path", "base_config")


def arguments(*argv: str) -> Arguments:
    return parse(list(argv), "train_bart.py")


def decoders(*argv: str) -> Arguments:
    return parse(list(argv), "train_e2e.py")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
class TestEveryRecipe:
    def test_holds_known_options_alone_and_all_are_taken(self, recipe):
        options = yaml.safe_load(recipe.read_text())
        further = ["--data_dir", "texts"] if options["mode"] == "pretrain" else []
        taken = arguments("--config", str(recipe), *further)
        for name, value in options.items():
            number = isinstance(getattr(taken, name), float)
            assert getattr(taken, name) == (float(value) if number else value), name

    def test_explains_itself(self, recipe):
        first, *lines = recipe.read_text().splitlines()
        assert first.startswith("# ")
        for line in lines:
            key = line.partition(":")[0]
            assert "#" in line or key in SPEAKS_FOR_ITSELF or key.startswith(" "), line

    def test_names_a_task_that_is_there(self, recipe):
        options = yaml.safe_load(recipe.read_text())
        if options["mode"] != "pretrain" and not recipe.stem.startswith("custom"):
            task = options["task"]
            assert task in TASKS and recipe.stem in (
                task,
                f"{task}_{options['mode']}",
                f"{task}_mini",
                f"{task}_lowdata",
            )


class TestThePapersFigures:
    """Li & Liang 2021, appendix A."""

    @pytest.mark.parametrize(
        "task, limits",
        [
            ("xsum", (1024, 60, 60, 100)),
            ("xsum_news", (512, 60, 60, 100)),
            ("xsum_news_sport", (512, 60, 60, 100)),
            ("cnn_dm", (512, 56, 142, 142)),
        ],
    )
    def test_are_the_recipes(self, task, limits):
        recipe = arguments("--task", task)
        assert recipe.model_name_or_path == "facebook/bart-large"
        assert (recipe.preseqlen, recipe.mid_dim, recipe.learning_rate) == (200, 800, 5e-5)
        assert (recipe.bsz, recipe.gradient_accumulation_steps, recipe.epoch) == (16, 3, 30)
        assert (
            recipe.max_source_length,
            recipe.max_target_length,
            recipe.val_max_target_length,
            recipe.test_max_target_length,
        ) == limits

    @pytest.mark.parametrize(
        "task, length, bsz, epochs", [("e2e", 10, 10, 5), ("webnlg", 5, 5, 5), ("dart", 5, 10, 10)]
    )
    def test_are_the_recipes_of_tables(self, task, length, bsz, epochs):
        recipe = decoders("--task", task)
        assert (recipe.model_name_or_path, recipe.mid_dim, recipe.learning_rate) == ("gpt2-medium", 512, 5e-5)
        assert (recipe.preseqlen, recipe.bsz, recipe.epoch) == (length, bsz, epochs)
        assert (recipe.warmup_steps, recipe.max_grad_norm, recipe.gradient_accumulation_steps) == (0, 1.0, 1)

    def test_few_records_are_drawn_from_all_whatever_the_recipe_takes(self):
        assert decoders("--task", "sample_tables").n_train == 1300
        drawn = decoders("--task", "sample_tables", "--lowdata", "10")
        assert (drawn.lowdata, drawn.n_train) == (10, None)
        assert decoders("--task", "sample_tables", "--lowdata", "null").n_train == 1300

    def test_are_the_recipe_of_few_records(self):
        recipe = decoders("--config", str(CONFIGS / "e2e_lowdata.yaml"))
        assert (recipe.task, recipe.model_name_or_path, recipe.mid_dim) == ("e2e", "gpt2-medium", 512)
        assert (recipe.learning_rate, recipe.warmup_steps, recipe.bsz) == (5e-5, 100, 10)
        assert recipe.lowdata_token and recipe.preseqlen is None and 50 <= (recipe.lowdata or 0) <= 500
        assert (recipe.max_steps, recipe.val_every_steps) == (400, 50)
        assert recipe.epoch * 50 / recipe.bsz >= recipe.max_steps

    def test_are_the_defaults_of_the_optimiser(self):
        default = Arguments()
        assert (default.learning_rate, default.weight_decay, default.warmup_steps) == (5e-5, 0.0, 0)
        assert (default.lr_scheduler, default.label_smoothing) == ("linear", 0.0)
        assert (arguments("--data_dir", "x").max_grad_norm, decoders("--data_dir", "x").max_grad_norm) == (0.0, 1.0)


class TestTheRecipeOfACall:
    @pytest.mark.parametrize("task", TASKS)
    def test_is_there_for_every_task(self, task):
        assert arguments("--task", task).task == task

    @pytest.mark.parametrize(
        "argv, recipe",
        [
            ((), "sample"),
            (("--mode", "finetune"), "sample_finetune"),
            (("--task", "scitldr"), "scitldr"),
            (("--task=scitldr", "--mode=finetune"), "scitldr_finetune"),
            (("--data_dir", "mine"), "custom"),
            (("--data_dir", "mine", "--mode", "finetune"), "custom_finetune"),
            (("--data_dir", "mine", "--task", "xsum"), "xsum"),
            (("--mode", "bothtune"), "sample_finetune"),
            (("--mode", "finetune-top"), "sample_finetune"),
            (("--mode", "adaptertune"), "sample"),
        ],
    )
    def test_is_picked_by_task_and_mode(self, argv, recipe):
        options = yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text())
        taken = recipe_of(arguments(*argv))
        options = {**options, "mode": taken["mode"]}
        assert {name: taken[name] for name in options} == {
            name: float(value) if isinstance(taken[name], float) else value for name, value in options.items()
        }

    def test_words_give_the_length_unless_they_or_it_are_the_recipes_own(self, tmp_path):
        words = ["--lowdata_token", "table-to-text"]
        assert arguments("--task", "e2e").preseqlen == 10
        assert arguments("--task", "e2e", *words).preseqlen is None
        assert arguments("--task", "e2e", *words, "--preseqlen", "7").preseqlen == 7
        (tmp_path / "mine.yaml").write_text("preseqlen: 7\nlowdata_token: a name\n")
        assert arguments(*words, "--config", str(tmp_path / "mine.yaml")).preseqlen == 7
        (tmp_path / "mine.yaml").write_text("preseqlen: 7\n")
        assert arguments(*words, "--config", str(tmp_path / "mine.yaml")).preseqlen == 7
        assert arguments(*words, "--config", str(CONFIGS / "e2e.yaml")).preseqlen is None

    def test_of_a_run_names_what_it_reads_by_the_whole_path(self, tmp_path, monkeypatch):
        for folder in ("data", "base", "elsewhere", "gpt2"):
            (tmp_path / folder).mkdir()
        (tmp_path / "base/config.json").write_text("{}")
        monkeypatch.chdir(tmp_path / "elsewhere")
        mine = arguments("--data_dir", "../data", "--model_name_or_path", "../base")
        kept = recipe_of(mine)
        assert (kept["data_dir"], kept["model_name_or_path"]) == (str(tmp_path / "data"), str(tmp_path / "base"))
        run = Run(tmp_path / "run")
        run.directory.mkdir()
        run.write_config({**kept, "data_dir": "data"})  # as earlier versions did
        monkeypatch.chdir(tmp_path)
        run.refuse_other_config(recipe_of(arguments("--data_dir", "data", "--model_name_or_path", "base")), MAY_CHANGE)
        hub = recipe_of(arguments("--data_dir", "data", "--model_name_or_path", "gpt2"))
        others = located({"distill_from": "gpt2", "tokenizer_name_or_path": "gpt2", "valid_file": "", "data_dir": None})
        assert others == {"distill_from": "gpt2", "tokenizer_name_or_path": "gpt2", "valid_file": "", "data_dir": None}
        assert hub["model_name_or_path"] == "gpt2"  # a folder that happens to be called so is no model
        with pytest.raises(UserError, match="started with model_name_or_path .*base, not gpt2"):
            run.refuse_other_config(hub, MAY_CHANGE)

    def test_gives_way_to_flags_wherever_they_stand(self, tmp_path):
        (tmp_path / "mine.yaml").write_text("preseqlen: 7\nmid_dim: 9\n")
        mine = ["--config", str(tmp_path / "mine.yaml")]
        for argv in (["--preseqlen", "8", *mine], [*mine, "--preseqlen=8"]):
            assert (arguments(*argv).preseqlen, arguments(*argv).mid_dim) == (8, 9)
        assert arguments("--task", "xsum", "--learning_rate", "1e-3").learning_rate == 1e-3

    def test_may_have_any_name(self, tmp_path):
        (tmp_path / "[a]*").mkdir()
        (tmp_path / "[a]*" / "?.yaml").write_text("preseqlen: 7\n")
        assert arguments("--config", str(tmp_path / "[a]*" / "?.yaml")).preseqlen == 7

    def test_of_a_run_that_is_decoded_is_its_own(self, tmp_path):
        run = tmp_path / "a=b"
        run.mkdir()
        (run / "config.yaml").write_text("task: cnn_dm\nnum_beams: 3\n")
        for no in ("no", "No", "false", "off"):
            taken = arguments("--do_train", no, "--prefix_model_path", str(run))
            assert (taken.task, taken.num_beams, taken.do_train) == ("cnn_dm", 3, False)

    @pytest.mark.parametrize(
        "word, value", [("", True), ("yes", True), ("true", True), ("no", False), ("false", False)]
    )
    def test_knows_switches_with_and_without_a_word(self, word, value):
        assert arguments("--resume", *[word] * bool(word)).resume is value


class TestOptions:
    def test_are_explained_each_with_its_own_line(self):
        source = Path(sys.modules[Arguments.__module__].__file__ or "").read_text()
        for name in NAMES:
            assert re.search(rf'^    {name}: .*\n    """[^\n]+\.("""|\n\n)', source, re.M), name

    def test_that_act_in_some_modes_alone_exist(self):
        assert {*ONLY_IN, *NOT_IN_PRETRAINING} <= NAMES
        assert set(OF_PRETRAINING) == {field.name for field in fields(PretrainArguments)}
        assert arguments("--mode", "finetune", "--lowdata_token", "null").mode == "finetune"

    def test_that_may_change_or_belong_to_the_call_exist(self):
        assert set(MAY_CHANGE) | set(ABOUT_THE_CALL) <= NAMES

    def test_of_a_task_are_the_limits_the_task_has_without_them(self):
        for name in ("xsum", "xsum_news", "xsum_news_sport", "cnn_dm"):
            recipe, task = arguments("--task", name), task_for(name, None, None, None)
            for limit in ("max_source_length", "max_target_length", "val_max_target_length", "test_max_target_length"):
                assert getattr(recipe, limit) == getattr(task, limit)


class TestTask:
    def test_of_a_folder_is_the_programs(self):
        assert (arguments("--data_dir", "x").task, decoders("--data_dir", "x").task) == (None, "custom_tables")
        assert decoders("--data_dir", "x", "--source_lang", "en", "--target_lang", "de").task is None
        assert decoders("--data_dir", "x", "--mode", "pretrain").task is None
        task = task_for("custom_tables", "x", None, None)
        assert (task.kind, task.search, task.metrics) == ("table_to_text", TASKS["e2e"].search, TASKS["e2e"].metrics)
        assert task.max_source_length + task.max_target_length + 10 < 514  # gpt2-mini's positions

    def test_without_a_flag_is_the_programs(self, tmp_path):
        recipe = tmp_path / "own.yaml"
        recipe.write_text("preseqlen: 3\n", encoding="utf-8")
        assert arguments("--config", str(recipe)).task == "sample"
        assert decoders("--config", str(recipe)).task == "sample_tables"

    def test_of_a_run_that_is_decoded_has_its_own_data_and_lengths(self, tmp_path):
        (tmp_path / "config.yaml").write_text("task: xsum\ndata_dir: old\nnum_beams: 3\nbsz: 7\n", encoding="utf-8")
        decoding = ("--do_train", "no", "--prefix_model_path", str(tmp_path))
        again = arguments(*decoding)
        assert (again.task, again.data_dir, again.num_beams, again.bsz) == ("xsum", "old", 3, 7)
        other = arguments(*decoding, "--task=cnn_dm", "--max_length", "50")
        assert (other.task, other.data_dir, other.num_beams, other.max_length, other.bsz) == (
            "cnn_dm",
            None,
            None,
            50,
            7,
        )

    def test_of_a_run_that_is_decoded_stay_beside_a_recipe_that_does_not_name_them(self, tmp_path):
        (tmp_path / "config.yaml").write_text("task: xsum\ndata_dir: old\nnum_beams: 3\neval_bsz: 7\nbsz: 7\n")
        (tmp_path / "speed.yaml").write_text("eval_bsz: 4\nbsz: 5\n")
        decoding = ("--do_train", "no", "--prefix_model_path", str(tmp_path), "--config", str(tmp_path / "speed.yaml"))
        again = arguments(*decoding)
        assert (again.task, again.data_dir, again.num_beams, again.eval_bsz, again.bsz) == ("xsum", "old", 3, 4, 7)
        (tmp_path / "speed.yaml").write_text("task: cnn_dm\nmax_length: 50\n")
        other = arguments(*decoding, "--eval_bsz", "2")
        assert (other.task, other.data_dir, other.num_beams, other.max_length) == ("cnn_dm", None, None, 50)
        assert (other.eval_bsz, other.do_train, other.prefix_model_path) == (2, False, str(tmp_path))
        for task in ("xsum", "null"):  # the run's own, and none: the data is the run's
            (tmp_path / "speed.yaml").write_text(f"task: {task}\nnum_beams: 2\n")
            again = arguments(*decoding)
            assert (again.task, again.data_dir, again.num_beams, again.eval_bsz) == ("xsum", "old", 2, 7)
        assert arguments(*decoding[:4], "--task", "xsum").data_dir == "old"

    def test_that_an_earlier_version_did_not_have_are_the_defaults_in_a_decoding(self, tmp_path):
        (tmp_path / "config.yaml").write_text("task: xsum\n")
        (tmp_path / "speed.yaml").write_text("source_prefix: 'In short: '\n")
        decoding = ("--do_train", "no", "--prefix_model_path", str(tmp_path))
        assert arguments(*decoding, "--config", str(tmp_path / "speed.yaml")).source_prefix is None
        with pytest.raises(UserError, match="--source_prefix In short: : changes nothing in the decoding"):
            arguments(*decoding, "--source_prefix", "In short: ")

    @pytest.mark.parametrize("value", ["null", "[1]", "much"])
    def test_of_a_run_that_is_decoded_of_the_wrong_kind_are_named(self, tmp_path, value):
        (tmp_path / "config.yaml").write_text(f"task: xsum\nlabel_smoothing: {value}\nbsz: {value}\n")
        with pytest.raises(UserError, match=r"config.yaml:\d: (label_smoothing|bsz)"):
            arguments("--do_train", "no", "--prefix_model_path", str(tmp_path))


@pytest.mark.parametrize("text", ["### Input: ", "# x", " # x ", "~", "yes ", "[a", "'a' ", "x: y ", "1 "])
def test_a_text_is_taken_as_it_stands(text, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"source_prefix": text}))
    assert arguments("--source_prefix", text).source_prefix == text
    assert arguments(f"--source_prefix={text}").source_prefix == text
    assert arguments("--config", str(tmp_path / "mine.yaml")).source_prefix == text
    assert arguments("--config", str(tmp_path / "mine.yaml"), "--source_prefix", "null").source_prefix is None


@pytest.mark.parametrize("given", ["encoder cross", "encoder,cross", "[encoder,cross]", "[encoder, cross]"])
def test_lists_are_taken_as_people_write_them(given):
    assert arguments("--sites", *given.split(), "--bsz", "4").sites == ["encoder", "cross"]
    assert arguments(f"--sites={given}").sites == ["encoder", "cross"]
    assert arguments("--sites", "cross").sites == ["cross"] and arguments("--sites", "null").sites is None


def test_lists_of_numbers_too():
    pretraining = ("--mode", "pretrain", "--data_dir", "texts", "--window_lengths")
    for given in (("64", "128"), ("64,128",), ("[64, 128]",)):
        assert arguments(*pretraining, *given).window_lengths == [64, 128]
    assert arguments(*pretraining, "{0: [32], 8: [64]}").window_lengths == {0: [32], 8: [64]}


class TestHelp:
    @pytest.fixture(scope="class")
    def shown(self) -> str:
        program = "import sys; sys.argv = ['train_bart.py', '--help']; from seq2seq.train_bart import main; "
        program += (
            "import atexit; atexit.register(lambda: print(sorted({'torch', 'transformers'} & set(sys.modules)))); "
        )
        command = [sys.executable, "-c", program + "main()"]
        environment = {**os.environ, "COLUMNS": "120"}
        # the processor's seconds, the fewest of three: another program may hold the processor
        seconds = []
        for _ in range(3):
            before = os.times()
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
            after = os.times()
            seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
        assert done.returncode == 0 and done.stderr == ""
        assert min(seconds) < 1
        return done.stdout

    def test_comes_within_a_second_and_without_torch_and_transformers(self, shown):
        assert shown.rstrip().endswith("[]")

    def test_explains_every_option(self, shown):
        text = " ".join(shown.split())
        for name in NAMES:
            assert f"--{name}" in text
        assert "Prefix length P in virtual tokens per site" in text
        assert "hub name or `save_pretrained` folder; default: the carried bart-mini" in text


def test_a_base_trained_at_a_prefixs_learning_rate_is_told_of(capsys):
    told = "dart.yaml is a prefix's recipe; its learning rate 5e-05 may be too high for a base"
    for mode, tells in {"finetune": True, "bothtune": True, "adaptertune": False, "prefixtune": False}.items():
        decoders("--task", "dart", "--mode", mode)
        assert (told in capsys.readouterr().err) == tells
    decoders("--task", "dart", "--mode", "finetune", "--learning_rate", "1e-5")
    decoders("--mode", "finetune")  # has a recipe of its own, and so have tables of one's own
    assert decoders("--data_dir", "mine", "--mode", "finetune").learning_rate == 5e-4
    assert not capsys.readouterr().err
