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

__all__ = ["Card", "all_cards", "asset_home", "find_by_fingerprint", "read_card", "resolve_asset", "verify_asset"]
