"""Versioned manifests: the contract between stages."""
