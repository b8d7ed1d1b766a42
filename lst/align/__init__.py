"""Forced alignment: words on the 25 Hz grid."""
