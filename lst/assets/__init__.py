"""Named models with cards, checksums and licences."""

from lst.assets.cards import (
    Card,
    all_cards,
    asset_home,
    find_by_fingerprint,
    read_card,
    resolve_asset,
    verify_asset,
)
from lst.assets.handshake import check_units, tokenizer_label

__all__ = [
    "Card",
    "all_cards",
    "asset_home",
    "check_units",
    "find_by_fingerprint",
    "read_card",
    "resolve_asset",
    "tokenizer_label",
    "verify_asset",
]
