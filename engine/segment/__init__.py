"""Masks for captures that come without them: background models, keying, multi-view agreement."""
