"""Packing a clip while Blender goes on."""

from bumpy import write_bumpy_clip


def test_packing_beside_blender(window):
    window.run("pack", write_bumpy_clip(window.folder / "big.p4d", 40_000, frames=30))
