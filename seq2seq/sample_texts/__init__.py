"""The texts of the carried `sample` data: domains, names and sentences that do not matter."""

from __future__ import annotations

from seq2seq.sample_texts import civic, events, news, trade, travel
from seq2seq.sample_texts.shape import Domain

DOMAINS: tuple[Domain, ...] = civic.DOMAINS + travel.DOMAINS + events.DOMAINS + news.DOMAINS + trade.DOMAINS
