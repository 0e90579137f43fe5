"""What holds of the carried `sample_tables` data: made again from its seed, every fact said, nothing else said."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

import seq2seq
from seq2seq import make_tables
from seq2seq.make_sample import to_gzip, to_lines
from seq2seq.make_tables import BOOLEAN, main, outline, place
from seq2seq.records import load_records
from seq2seq.table_texts import SEEN, UNSEEN
from seq2seq.table_texts.plans import PLANS, THING_PLANS
from seq2seq.tasks import TASKS

FOLDER = Path(seq2seq.__file__).parent / "carried" / "sample_tables"
COUNTS = {"train": 2000, "val": 200, "test": 400}
# Ways of the handwritten references to say a value in other words.
SAID = {"no": "without a|no", "32 a week": "32 hours a week"}


def cells(record: dict) -> list[tuple[str, str]]:
    """(key, value) pairs of a source."""
    pairs = [cell.split(" : ") for cell in record["source"].split(" | ")]
    assert all(len(pair) == 2 for pair in pairs), record["source"]
    return [(key, value) for key, value in pairs]


def sentences(text: str) -> list[str]:
    """The sentences of a reference."""
    return re.split(r"(?<=\.) (?=[A-Z])", text)


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict]]:
    """The committed generated records by split."""
    return {
        split: [json.loads(line) for line in gzip.decompress((FOLDER / f"{split}.jsonl.gz").read_bytes()).splitlines()]
        for split in COUNTS
    }


@pytest.fixture(scope="module")
def handwritten() -> list[dict]:
    """The committed records written by hand."""
    return [json.loads(line) for line in (FOLDER / "handwritten.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def generated(splits) -> list[dict]:
    """All generated records."""
    return [record for records in splits.values() for record in records]


class TestFiles:
    def test_the_command_makes_the_committed_lines_again(self, capsys):
        assert main(["--output_dir", str(FOLDER), "--check"]) == 0
        assert capsys.readouterr().err == ""

    def test_gzip_files_tell_neither_time_nor_name(self):
        for split in COUNTS:
            head = (FOLDER / f"{split}.jsonl.gz").read_bytes()[:10]
            assert head[3] == 0 and head[4:8] == bytes(4), split

    def test_check_tells_a_changed_file_in_one_line(self, tmp_path, splits, capsys, monkeypatch):
        monkeypatch.setattr(make_tables, "make_records", lambda seed: splits)
        for split, records in splits.items():
            (tmp_path / f"{split}.jsonl.gz").write_bytes(to_gzip(to_lines(records[1:] if split == "val" else records)))
        assert main(["--output_dir", str(tmp_path), "--check"]) == 1
        message = capsys.readouterr().err
        assert "val.jsonl.gz" in message and message.count("\n") == 1

    def test_are_under_600_kilobytes(self):
        assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 600_000

    def test_counts_of_the_parts(self, splits, handwritten):
        assert {split: len(records) for split, records in splits.items()} == COUNTS
        assert Counter(record["part"] for record in splits["test"]) == {"seen": 200, "unseen": 200}
        assert {record["part"] for split in ("train", "val") for record in splits[split]} == {"seen"}
        assert len(handwritten) == 40 and {record["part"] for record in handwritten} == {"handwritten"}

    @pytest.mark.parametrize("split", COUNTS)
    def test_the_task_reads_them_whole(self, split):
        records = load_records(TASKS["sample_tables"], None, split)
        assert records.report() == []
        assert len(records.items) == COUNTS[split] + (40 if split == "test" else 0)

    def test_the_test_split_is_scored_in_three_parts(self):
        parts = [record.part for record in load_records(TASKS["sample_tables"], None, "test").items]
        assert list(dict.fromkeys(parts)) == ["seen", "unseen", "handwritten"]


class TestRecords:
    def test_have_the_four_fields(self, generated, handwritten):
        for record in generated + handwritten:
            assert list(record) == ["source", "references", "domain", "part"]
            assert 2 <= len(record["references"]) == len(set(record["references"])) <= 4

    def test_no_two_have_the_same_name(self, generated):
        names = [dict(cells(record))["name"] for record in generated]
        assert len(set(names)) == len(names)

    def test_unseen_domains_and_their_kinds_are_not_in_training(self, splits):
        trained = {record["domain"] for record in splits["train"]}
        assert trained == {domain.name for domain in SEEN}
        unseen = [record for record in splits["test"] if record["part"] == "unseen"]
        assert {record["domain"] for record in unseen} == {domain.name for domain in UNSEEN}
        kinds = {cells(record)[1][1] for record in splits["train"]}
        assert not kinds & {cells(record)[1][1] for record in unseen}

    def test_have_three_to_six_fields_all_of_them_different(self, generated):
        for record in generated:
            keys = [key for key, _ in cells(record)]
            assert keys[0] == "name" and 3 <= len(keys) == len(set(keys)) <= 6

    def test_numbers_have_at_most_four_digits(self, generated):
        assert max(len(number) for record in generated for number in re.findall(r"\d+", record["source"])) == 4

    def test_most_names_are_rare_words(self, splits):
        """A model cannot learn the names by heart: it has to copy them."""
        trained = {word for record in splits["train"] for word in cells(record)[0][1].split()}
        new = [set(cells(record)[0][1].split()) - trained for record in splits["test"]]
        assert sum(map(bool, new)) > 0.3 * len(new)


class TestReferences:
    def test_of_the_generator_say_every_value_once(self, generated):
        for record in generated:
            for reference in record["references"]:
                for key, value in cells(record):
                    times = len(re.findall(rf"(?<!\w){re.escape(value)}(?!\w)", reference))
                    assert value in BOOLEAN or times == 1, (key, value, reference)

    def test_of_the_hand_say_every_value(self, handwritten):
        for record in handwritten:
            for reference in record["references"]:
                for _, value in cells(record):
                    pattern = SAID.get(value, re.escape(value))
                    assert re.search(rf"(?<!\w)(?:{pattern})(?!\w)", reference, re.IGNORECASE), (value, reference)

    def test_say_yes_and_no_apart(self, generated):
        said = {
            "dogs welcome": (
                r"dog-friendly|welcome|allow|bring|open to",
                r"are not|not allow|no dogs|turns dogs away|closed to dogs",
            ),
            "works offline": (r"offline", r"not|unusable"),
        }
        found = Counter()
        for record in generated:
            for key, value in cells(record):
                if key in said:
                    found[key, value] += 1
                    for reference in map(str.lower, record["references"]):
                        assert re.search(said[key][0] + "|" + said[key][1], reference), reference
                        assert bool(re.search(said[key][1], reference)) == (value == "no"), reference
        assert len(found) == 4

    def test_hold_no_number_and_no_name_that_is_not_in_the_record(self, generated, handwritten):
        phrases = [*PLANS.values(), *THING_PLANS.values()]
        for domain in SEEN + UNSEEN:
            phrases += [*domain.frames, domain.noun]
            for field in domain.fields:
                phrases += [*field.post, *field.part, *field.lead, *field.clause]
        common = set(re.findall(r"[a-z]+", " ".join(phrases).lower()))
        for record in generated + handwritten:
            held = set(re.findall(r"\w+", record["source"]))
            for reference in record["references"]:
                for sentence in sentences(reference):
                    first, *rest = re.findall(r"\w+", sentence)
                    copied = {word for word in rest if word[0].isdigit() or word[0].isupper()}
                    assert not copied - held, reference
                    own = record["part"] != "handwritten"
                    assert first in held or not own or first.lower() in common, reference

    def test_are_one_or_two_sentences(self, generated, handwritten):
        for record in generated + handwritten:
            for reference in record["references"]:
                found = sentences(reference)
                assert 1 <= len(found) <= 2, reference
                assert all(sentence[0].isupper() and sentence.endswith(".") for sentence in found), reference

    def test_have_no_slip_of_the_pen(self, generated, handwritten):
        slips = (r"  |\s[,.;]|,,|,\.|\.\.|[{}\[\]|]|\n", r"\b(\w+) \1\b", r"\b[Aa]n? an?\b")
        for record in generated + handwritten:
            for reference in record["references"]:
                assert reference == reference.strip()
                assert not any(re.search(slip, reference) for slip in slips), reference

    def test_put_a_and_an_where_they_belong(self, generated, handwritten):
        consonant, vowel = r"uni|use|usu|eu|one\b", r"8\b|8\d\b|8\d\d\b|11\b|18\b|hour|hono|heir"
        for record in generated + handwritten:
            for reference in record["references"]:
                for article, word in re.findall(r"\b([Aa]n?) (\w+)", reference):
                    open_sound = re.match(r"[aeiou]", word, re.IGNORECASE) and not re.match(
                        consonant, word, re.IGNORECASE
                    )
                    wants = "an" if open_sound or re.match(vowel, word) else "a"
                    assert article.lower() == wants, reference

    def test_of_one_record_begin_differently_and_order_the_facts_differently(self, generated):
        for record in generated:
            references = record["references"]
            assert len({tuple(reference.split()[:3]) for reference in references}) == len(references)
            assert len({outline(cells(record), reference) for reference in references}) == len(references)

    def test_of_a_domain_have_hundreds_of_shapes(self, splits):
        """A shape is a reference with its values replaced by their keys."""
        shapes: dict[str, set[str]] = {}
        for record in splits["train"]:
            for reference in record["references"]:
                for key, value in sorted(cells(record), key=lambda cell: -len(cell[1])):
                    reference = reference.replace(value, f"<{key}>")
                shapes.setdefault(record["domain"], set()).add(reference)
        assert all(len(found) > 200 for found in shapes.values())


class TestDomains:
    def test_are_ten_seen_and_four_unseen_ones_or_more(self):
        assert len({domain.name for domain in SEEN}) >= 10
        assert len({domain.name for domain in UNSEEN}) >= 4
        assert not {domain.name for domain in SEEN} & {domain.name for domain in UNSEEN}

    def test_have_four_to_eight_fields_beside_name_and_kind(self):
        for domain in SEEN + UNSEEN:
            assert 4 <= len({field.key for field in domain.fields}) <= 8, domain.name

    def test_have_eight_plans_or_more_and_some_of_their_own(self):
        assert len(PLANS) >= 8 and len(THING_PLANS) >= 2
        assert all(len(domain.frames) >= 3 for domain in SEEN + UNSEEN)

    def test_can_say_every_field_in_several_forms(self):
        for domain in SEEN + UNSEEN:
            for field in domain.fields:
                forms = [field.adj, field.post, field.part, field.verb, field.lead, field.clause]
                assert sum(map(bool, forms)) >= 3 and field.verb, (domain.name, field.key)

    def test_phrases_have_one_place_for_the_value_and_leads_one_for_the_mention(self):
        for domain in SEEN + UNSEEN:
            for field in domain.fields:
                for phrase in (*field.adj, *field.post, *field.part, *field.verb, *field.lead, *field.clause):
                    assert phrase.count("{}") == (field.values not in BOOLEAN or phrase.count("{}")), phrase
                    assert phrase.count("{N}") == (phrase in field.lead) and not phrase.startswith("{N}"), phrase

    def test_own_plans_name_fields_that_are_there(self):
        for domain in SEEN + UNSEEN:
            keys = {field.key for field in domain.fields}
            for frame in domain.frames:
                assert set(re.findall(r"\{=([^}]+)\}", frame)) <= keys, frame
                assert "{name}" in frame and "{type}" in frame


def test_place_finds_whole_words_alone():
    assert place("4", "In 1945, 4 came.") == 9
    assert place("4", "In 1945, 45 came.") == -1
