// SPDX-License-Identifier: GPL-3.0-or-later
// Opaque triangles in the depth order of the points.
//
// Two-dimensional homogeneous rasterisation (Olano and Greer 1997): with a vertex v = (u w, v w, w)
// the edge functions e_i = v_j x v_k are linear in the pixel p = (x, y, 1), need no clipping, and
// e_i . p / det are the barycentric coordinates divided by depth. Neighbours evaluate a shared edge
// to exactly opposite numbers, so no pixel falls between them.
#pragma once

#include "footprint.h"
#include "project.h"

namespace peel {

// Triangles of all meshes, world space; plain data.
struct Mesh {
  View view;              // with the identity as its clip
  const float* position;  // (vertices, 3)
  const int32_t* index;   // (count, 3) vertices
  const float* color;     // (vertices, 3)
  const uint8_t* holdout;  // (count): 1 hides the points behind it and shows nothing itself
  const int32_t* id;       // (count)
  int64_t count;
};

struct ScreenTriangle {
  double edge[3][3];  // e_i, oriented so that det > 0: inside where every e_i . p >= 0
  double depth[3];    // perspective: 1 / z = depth . p, orthographic: z = depth . p
  Box box;            // the pixels it can cover
};

PEEL_HD void cross(const double a[3], const double b[3], double out[3]) {
  out[0] = a[1] * b[2] - a[2] * b[1];
  out[1] = a[2] * b[0] - a[0] * b[2];
  out[2] = a[0] * b[1] - a[1] * b[0];
}

PEEL_HD double dot(const double a[3], const double b[3]) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

// e . (x, y, 1); the same order of operations for every triangle keeps shared edges exact.
PEEL_HD double edge_at(const double e[3], double x, double y) { return e[0] * x + e[1] * y + e[2]; }

PEEL_HD void widen(double u, double v, double bounds[4]) {
  bounds[0] = u < bounds[0] ? u : bounds[0];
  bounds[1] = u > bounds[1] ? u : bounds[1];
  bounds[2] = v < bounds[2] ? v : bounds[2];
  bounds[3] = v > bounds[3] ? v : bounds[3];
}

// False: the triangle is degenerate, not finite, or outside the image or (near, far).
PEEL_HD bool setup_triangle(const Mesh& mesh, int64_t triangle, ScreenTriangle* out) {
  const View& view = mesh.view;
  const bool orthographic = view.orthographic != 0;
  double vertex[3][3], z[3];
  for (int i = 0; i < 3; ++i) {
    const float* p = mesh.position + 3 * (int64_t)mesh.index[3 * triangle + i];
    const double* A = view.linear;
    const double px = p[0], py = p[1], pz = p[2];
    const double x = A[0] * px + A[1] * py + A[2] * pz + view.shift[0];
    const double y = A[3] * px + A[4] * py + A[5] * pz + view.shift[1];
    z[i] = A[6] * px + A[7] * py + A[8] * pz + view.shift[2];
    const double w = orthographic ? 1.0 : z[i];
    vertex[i][0] = view.fx * x + view.skew * y + view.cx * w;
    vertex[i][1] = view.fy * y + view.cy * w;
    vertex[i][2] = w;
    if (!is_finite(vertex[i][0] + vertex[i][1] + z[i])) return false;
  }
  for (int i = 0; i < 3; ++i) cross(vertex[(i + 1) % 3], vertex[(i + 2) % 3], out->edge[i]);
  double det = dot(vertex[0], out->edge[0]);
  if (det == 0.0 || !is_finite(det)) return false;
  if (det < 0.0) {
    for (int i = 0; i < 3; ++i) {
      for (int c = 0; c < 3; ++c) out->edge[i][c] = -out->edge[i][c];
    }
    det = -det;
  }
  for (int c = 0; c < 3; ++c) {
    double sum = 0.0;
    for (int i = 0; i < 3; ++i) sum += out->edge[i][c] * (orthographic ? z[i] : 1.0);
    out->depth[c] = sum / det;
  }
  // Bounds of the part in front of the near plane.
  const double near_z = view.near_z;
  double bounds[4] = {INFINITY, -INFINITY, INFINITY, -INFINITY};
  for (int i = 0; i < 3; ++i) {
    const int j = (i + 1) % 3;
    if (orthographic || (z[i] >= near_z && z[i] > 0.0)) {
      widen(vertex[i][0] / vertex[i][2], vertex[i][1] / vertex[i][2], bounds);
    }
    if (!orthographic && (z[i] < near_z) != (z[j] < near_z)) {
      if (!(near_z > 0.0)) {  // the cut lies at infinity
        bounds[0] = bounds[2] = -INFINITY;
        bounds[1] = bounds[3] = INFINITY;
        continue;
      }
      const double s = (near_z - z[i]) / (z[j] - z[i]);
      const double w = z[i] + s * (z[j] - z[i]);
      widen((vertex[i][0] + s * (vertex[j][0] - vertex[i][0])) / w,
            (vertex[i][1] + s * (vertex[j][1] - vertex[i][1])) / w, bounds);
    }
  }
  const double margin = 1e-3, last_x = view.width - 1.0, last_y = view.height - 1.0;
  const double x0 = bounds[0] - 0.5 - margin, x1 = bounds[1] - 0.5 + margin;
  const double y0 = bounds[2] - 0.5 - margin, y1 = bounds[3] - 0.5 + margin;
  if (!((x1 >= 0.0) & (y1 >= 0.0) & (x0 <= last_x) & (y0 <= last_y))) return false;
  out->box.x0 = (int16_t)round_up(clamp(x0, 0.0, last_x));
  out->box.x1 = (int16_t)(int)clamp(x1, 0.0, last_x);
  out->box.y0 = (int16_t)round_up(clamp(y0, 0.0, last_y));
  out->box.y1 = (int16_t)(int)clamp(y1, 0.0, last_y);
  return out->box.x0 <= out->box.x1 && out->box.y0 <= out->box.y1;
}

// Camera z of the triangle at the point (x, y) of the image, +inf where it is not.
PEEL_HD float triangle_depth(const View& view, const ScreenTriangle& t, double x, double y) {
  const bool inside = (edge_at(t.edge[0], x, y) >= 0.0) & (edge_at(t.edge[1], x, y) >= 0.0) &
                      (edge_at(t.edge[2], x, y) >= 0.0);
  const double linear = edge_at(t.depth, x, y);
  const float z = (float)(view.orthographic ? linear : 1.0 / linear);
  const bool seen = inside & (z > view.near_z) & (z < view.far_z) &
                    ((view.orthographic != 0) | (linear > 0.0));
  return seen ? z : INFINITY;
}

// Colour of a triangle at (x, y), where it is; clipped to [0, 1], NaN counts as 0.
PEEL_HD void triangle_color(const Mesh& mesh, int64_t triangle, const ScreenTriangle& t, double x,
                            double y, float rgb[3]) {
  double weight[3], sum = 0.0;
  for (int i = 0; i < 3; ++i) {
    weight[i] = edge_at(t.edge[i], x, y);
    sum += weight[i];
  }
  for (int c = 0; c < 3; ++c) {
    double value = 0.0;
    for (int i = 0; i < 3; ++i) {
      value += weight[i] * mesh.color[3 * (int64_t)mesh.index[3 * triangle + i] + c];
    }
    value /= sum;
    rgb[c] = value > 0.0 ? (value < 1.0 ? (float)value : 1.0f) : 0.0f;
  }
}

}  // namespace peel
