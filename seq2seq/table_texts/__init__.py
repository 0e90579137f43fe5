"""The texts of the carried `sample_tables` data: domains with their fields and phrases, and plans of sentences."""

from __future__ import annotations

from seq2seq.table_texts import outdoors, people, places, things, unseen_places, unseen_things
from seq2seq.table_texts.shape import Domain

SEEN: tuple[Domain, ...] = places.DOMAINS + outdoors.DOMAINS + people.DOMAINS + things.DOMAINS
"""Domains of training, validation and the seen part of the test split."""
UNSEEN: tuple[Domain, ...] = unseen_places.DOMAINS + unseen_things.DOMAINS
"""Domains of the unseen part of the test split only."""
