/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The C interface of the splat core (one shared library, no dependencies, any Python).
 *
 * Every function is thread-safe and reentrant, keeps no pointer after it returned, throws nothing
 * and returns PEEL4D_OK or an error code. Arrays are C-contiguous. Structs start with their size in
 * bytes (`size`), so that a caller built against another version is recognised.
 *
 * The picture (peel): of the points whose footprint covers a pixel centre the `layers` nearest are
 * composited front to back. See include/peel/ for the arithmetic and its derivatives.
 */
#ifndef PEEL4D_H
#define PEEL4D_H

#include <stdint.h>

#if defined(_WIN32)
#define PEEL4D_API __declspec(dllexport)
#else
#define PEEL4D_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised whenever a struct or the meaning of an argument changes. */
#define PEEL4D_ABI_VERSION 1

#define PEEL4D_OK 0
#define PEEL4D_INVALID_ARGUMENT 1 /* null pointer, wrong struct size, sizes or settings out of range */
#define PEEL4D_OUT_OF_MEMORY 2
#define PEEL4D_TOO_LARGE 3 /* more points, pixels or overlaps than the core can index */
#define PEEL4D_INTERNAL 4

/* OpenCV axes (x right, y down, z forward): x_camera = rotation x_world + translation.
 * Pixel (column i, row j) is sampled at (i + 0.5, j + 0.5). */
typedef struct peel4d_camera {
  uint32_t size;
  int32_t width, height; /* pixels, each 1 .. 32767, together at most 2^28 */
  int32_t orthographic;  /* fx, fy are then pixels per world unit and z does not divide */
  double fx, fy, skew, cx, cy;
  double rotation[9], translation[3];
  double near_z, far_z; /* points with z <= near or z >= far vanish */
} peel4d_camera;

typedef struct peel4d_settings {
  uint32_t size;
  int32_t layers;          /* K, 1 .. 64 */
  int32_t threads;         /* 0: $PEEL4D_THREADS, else all cores this process may use */
  float min_radius_px;     /* > 0; smaller points are drawn this large and fainter */
  float min_transmittance; /* a pixel is finished when less light than this passes, 0 .. 1 */
} peel4d_settings;

typedef struct peel4d_points {
  uint32_t size;
  int32_t sh_count; /* 1, 4, 9, 16: color is sh (count, sh_count, 3); 0: rgb (count, 3) */
  int64_t count;
  const float *position; /* (count, 3) world */
  const float *radius;   /* (count) world units; <= 0 or non-finite: not drawn */
  const float *density;  /* (count) opacity at the centre, clipped to 1; <= 0: not drawn */
  const float *color;
} peel4d_points;

/* All but rgba may be null. Row 0 is the top. */
typedef struct peel4d_image {
  uint32_t size;
  float *rgba;    /* (height, width, 4) premultiplied */
  float *depth;   /* (height, width) sum_k T_k alpha_k z_k */
  float *surface; /* (height, width) z of the layer where alpha reaches 0.5, else +inf */
  int32_t *layer_ids; /* (height, width, layers) indices of the layers, front first, then -1 */
} peel4d_image;

/* Same shapes as the points; every element is written. */
typedef struct peel4d_gradients {
  uint32_t size;
  float *position, *radius, *density, *color;
} peel4d_gradients;

PEEL4D_API int32_t peel4d_abi_version(void);

/* "0.1.0 avx2" or "0.1.0 baseline": version of the core and the instruction set in use, the best
 * that the processor has unless $PEEL4D_ISA is "baseline". Both give the same bits. */
PEEL4D_API const char *peel4d_build_info(void);

/* English, one clause, never null. */
PEEL4D_API const char *peel4d_error_message(int32_t code);

/* Bit-identical for every number of threads. */
PEEL4D_API int32_t peel4d_forward(const peel4d_camera *camera, const peel4d_settings *settings,
                                  const peel4d_points *points, const peel4d_image *image);

/* Gradients of a scalar L given dL/drgba (height, width, 4) and dL/ddepth (height, width) or null.
 * Recomputes the forward pass; bit-identical for every number of threads. */
PEEL4D_API int32_t peel4d_backward(const peel4d_camera *camera, const peel4d_settings *settings,
                                   const peel4d_points *points, const float *d_rgba,
                                   const float *d_depth, const peel4d_gradients *gradients);

/* Spherical harmonics -> rgb (count, 3) in [0, 1] as seen from `eye` (orthographic: `eye` is the
 * unit viewing direction), for instances whose appearance lives in a space of its own. A colour
 * that is not finite comes back as NaN, and forward then drops the point. */
PEEL4D_API int32_t peel4d_sh_forward(int64_t count, int32_t sh_count, const float *position,
                                     const float *sh, const double eye[3], int32_t orthographic,
                                     int32_t threads, float *rgb);

#ifdef __cplusplus
}
#endif

#endif
