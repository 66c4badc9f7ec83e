# SPDX-License-Identifier: GPL-3.0-or-later
"""The sidebar's panel about what the viewports show."""

from __future__ import annotations

import bpy

from .session import SESSION

_DEVICES = {"cpu": "CPU", "cuda": "CUDA", "gl": "Graphics"}


class PEEL4D_VIEW3D_PT_display(bpy.types.Panel):
    """How clips are drawn in the viewports"""

    bl_label = "Display"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Peel4D"
    bl_order = 40

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        settings = context.scene.peel4d
        layout.prop(settings, "viewport_backend", text="Device")
        layout.prop(settings, "meshes")
        layout.prop(settings, "overlay", text="Overlay")
        column = layout.column(align=True)
        column.active = False
        for line in report_lines():
            column.label(text=line)


def report_lines() -> list[str]:
    """What was drawn last, two lines for each viewport in Rendered mode."""
    lines = []
    for viewport in list(SESSION.viewports):
        report = viewport.report()
        if report is None:
            continue
        device = _DEVICES.get(report.device, report.device)
        contents = f"{report.points:,} points"
        if report.points < report.all_points:
            contents = f"{report.points:,} of {report.all_points:,} points"
        if report.layers is not None:
            contents += f", {report.layers} layers"
        if report.triangles:
            contents += f", {report.triangles:,} triangles"
        lines.append(contents)
        lines.append(
            f"{device}, {report.width} x {report.height}, {1000 * report.seconds:.0f} ms"
            + (f", {report.rate:.0f} fps" if report.rate >= 1.0 else "")
        )
    return lines


def register() -> None:
    bpy.utils.register_class(PEEL4D_VIEW3D_PT_display)


def unregister() -> None:
    bpy.utils.unregister_class(PEEL4D_VIEW3D_PT_display)
