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
#define PEEL4D_ABI_VERSION 5

#define PEEL4D_OK 0
#define PEEL4D_INVALID_ARGUMENT 1 /* null pointer, wrong struct size, sizes or settings out of range */
#define PEEL4D_OUT_OF_MEMORY 2
#define PEEL4D_TOO_LARGE 3 /* more points, pixels or overlaps than the core can index */
#define PEEL4D_INTERNAL 4
#define PEEL4D_DAMAGED 5 /* a stream that no encoder has written */

/* OpenCV axes (x right, y down, z forward): x_camera = rotation x_world + translation.
 * Pixel (column i, row j) is sampled at (i + 0.5, j + 0.5). */
typedef struct peel4d_camera {
  uint32_t size;
  int32_t width, height; /* pixels; times samples each 1 .. 32767, together at most 2^28 */
  int32_t orthographic;  /* fx, fy are then pixels per world unit and z does not divide */
  double fx, fy, skew, cx, cy;
  double rotation[9], translation[3];
  double near_z, far_z; /* points with z <= near or z >= far vanish */
} peel4d_camera;

typedef struct peel4d_settings {
  uint32_t size;
  int32_t layers;          /* K, 1 .. 64 */
  int32_t samples;         /* 1, 2 or 4: so many per pixel along each axis, averaged */
  int32_t threads;         /* 0: $PEEL4D_THREADS, else all cores this process may use */
  float min_radius_px;     /* > 0; points smaller than so many samples are drawn larger and fainter */
  float min_transmittance; /* a sample is finished when less light than this passes, 0 .. 1 */
} peel4d_settings;

#define PEEL4D_FLOAT32 0
#define PEEL4D_FLOAT16 1 /* not for positions */
#define PEEL4D_UINT8 2   /* codes, see peel4d_array; not for positions */
#define PEEL4D_UINT16 3

/* One attribute: element (point i, component c) lies at i point_stride + c component_stride elements
 * behind data. Codes mean table[min(code, table_size - 1)] where there is a table, else
 * min(code step[c] + low[c], high[c]), positions in double and then rounded to float32, all else in
 * float32. step, low, high: one number per component, null for floats and tables. */
typedef struct peel4d_array {
  uint32_t size;
  int32_t type;
  const void *data;
  int64_t point_stride, component_stride;
  const double *step, *low, *high;
  const float *table;
  int32_t table_size; /* 0: no table; not for positions and colours */
  int32_t reserved;   /* 0 */
} peel4d_array;

/* The points of one frame of a clip, placed in the world. */
typedef struct peel4d_clip {
  uint32_t size;
  int32_t sh_count; /* 1, 4, 9, 16: color is sh, component 3 basis + channel; 0: color is rgb */
  int32_t id;       /* what peel4d_image.surface_id shows */
  int32_t reserved; /* 0 */
  int64_t count;
  peel4d_array position; /* clip units; a point with anything that is not finite is not drawn */
  peel4d_array radius;   /* clip units; <= 0: not drawn */
  peel4d_array density;  /* opacity at the centre, clipped to 1; <= 0: not drawn */
  peel4d_array color;
  double matrix[12];     /* clip -> world, 3 rows of 4 */
  double radius_scale;   /* clip units -> world units, > 0 */
  double opacity;        /* multiplies the density, 0 .. 1 */
  double eye[3];         /* camera centre in the clip; orthographic: its unit viewing direction */
} peel4d_clip;

/* Opaque triangles in the world, seen from both sides. */
typedef struct peel4d_mesh {
  uint32_t size;
  uint32_t reserved; /* 0 */
  int64_t vertex_count, count;
  const float *position;   /* (vertex_count, 3) */
  const int32_t *index;    /* (count, 3), each in 0 .. vertex_count - 1 */
  const float *color;      /* (vertex_count, 3), clipped to [0, 1] */
  const uint8_t *holdout;  /* (count): 1 hides what is behind it and shows nothing itself */
  const int32_t *id;       /* (count): what peel4d_image.surface_id shows */
} peel4d_mesh;

/* All but rgba may be null. Row 0 is the top. With several samples per pixel rgba and depth are
 * their mean, surface and surface_id belong to the nearest of the samples that have a surface, if at
 * least half of them have one. */
typedef struct peel4d_image {
  uint32_t size;
  float *rgba;    /* (height, width, 4) premultiplied */
  float *depth;   /* (height, width) sum_k T_k alpha_k z_k */
  float *surface; /* (height, width) z of the layer where alpha reaches 0.5, else +inf */
  int32_t *surface_id; /* (height, width) id of the clip or triangle of the surface, else -1 */
  int32_t *layer_ids;  /* (height, width, layers) points of the layers, front first, then -1; counted
                          through all clips; needs samples = 1 */
} peel4d_image;

/* Contiguous, shaped like the points (color: (count, max(sh_count, 1), 3)); all is written. */
typedef struct peel4d_gradients {
  uint32_t size;
  float *position, *radius, *density, *color;
} peel4d_gradients;

/* What a forward pass found out and the backward pass of the same picture can use again. */
typedef struct peel4d_frame peel4d_frame;

PEEL4D_API int32_t peel4d_abi_version(void);

/* "0.1.0 avx2": version of the core and the instruction set in use, the best that the processor and
 * the build have unless $PEEL4D_ISA names a lesser one (baseline, avx2). All give the same bits. */
PEEL4D_API const char *peel4d_build_info(void);

/* English, one clause, never null. */
PEEL4D_API const char *peel4d_error_message(int32_t code);

/* Peels all clips together in one depth order, with the mesh (may be null) in it. Bit-identical for
 * every number of threads. frame: null, or receives a frame for peel4d_backward, to be freed; it
 * keeps no pointer to the arguments. */
PEEL4D_API int32_t peel4d_forward(const peel4d_camera *camera, const peel4d_settings *settings,
                                  const peel4d_clip *clips, int32_t clip_count,
                                  const peel4d_mesh *mesh, const peel4d_image *image,
                                  peel4d_frame **frame);

/* Gradients of a scalar L given dL/drgba (height, width, 4) and dL/ddepth (height, width) or null, of
 * a picture of one clip with samples = 1 and no mesh. frame: of the forward pass with the very same
 * arguments, or null, which computes it again; the result is the same. Bit-identical for every
 * number of threads. */
PEEL4D_API int32_t peel4d_backward(const peel4d_camera *camera, const peel4d_settings *settings,
                                   const peel4d_clip *clip, peel4d_frame *frame,
                                   const float *d_rgba, const float *d_depth,
                                   const peel4d_gradients *gradients);

PEEL4D_API void peel4d_frame_free(peel4d_frame *frame); /* null is allowed */

/* For the drivers of other devices: writes the arguments in the form that the kernels take, an array
 * of peel::Clip (points.h) and one peel::Mesh (triangle.h), the pointers in them unread and unchanged.
 * Sizes in bytes of one element: peel4d_clip_bytes(), peel4d_mesh_bytes(). */
PEEL4D_API int64_t peel4d_clip_bytes(void);
PEEL4D_API int64_t peel4d_mesh_bytes(void);
PEEL4D_API int32_t peel4d_prepare(const peel4d_camera *camera, const peel4d_settings *settings,
                                  const peel4d_clip *clips, int32_t clip_count,
                                  const peel4d_mesh *mesh, void *out_clips, void *out_mesh);

/* How the codes of one component are stored: as differences from what near points have (spatial) or
 * from a running mean, less the difference of an earlier component (follows, else -1). Components
 * of one set share their statistics. */
typedef struct peel4d_component {
  int32_t spatial, follows, set;
} peel4d_component;

/* Points without loss. morton: (count) ascending codes, bit i of x, y and z at 3 i, 3 i + 1, 3 i + 2,
 * of `bits` (1 .. 21) bits each. codes: (component_count, count), 0 .. 2^24 - 1. The stream must be
 * freed. Decoding needs the same count, bits and components; PEEL4D_DAMAGED for what no encoder has
 * written, the arrays then hold anything. The same bytes and numbers on every machine. */
typedef struct peel4d_stream peel4d_stream;
PEEL4D_API int32_t peel4d_encode_points(const uint64_t *morton, int64_t count, int32_t bits,
                                        const int32_t *codes, const peel4d_component *components,
                                        int32_t component_count, peel4d_stream **stream);
PEEL4D_API const uint8_t *peel4d_stream_data(const peel4d_stream *stream);
PEEL4D_API int64_t peel4d_stream_bytes(const peel4d_stream *stream);
PEEL4D_API void peel4d_stream_free(peel4d_stream *stream); /* null is allowed */
PEEL4D_API int32_t peel4d_decode_points(const uint8_t *data, int64_t bytes, int64_t count,
                                        int32_t bits, const peel4d_component *components,
                                        int32_t component_count, uint64_t *morton, int32_t *codes);

/* Symbols by static tables. frequencies: of the symbols 0, 1, ... of table 0, then of table 1, ...;
 * sizes: (table_count, 1 .. 2^16) symbols of each, together at most 2^22; every table sums to
 * 2^bits (bits 1 .. 16). table_of: (count) table of every symbol, null for table 0 alone. A symbol
 * whose frequency is 0 cannot be encoded. The stream must be freed. PEEL4D_DAMAGED for tables that
 * are none and for what no encoder has written. The same bytes and numbers on every machine. */
PEEL4D_API int32_t peel4d_encode_symbols(const int32_t *symbols, const int32_t *table_of,
                                         int64_t count, const uint32_t *frequencies,
                                         const int32_t *sizes, int32_t table_count, int32_t bits,
                                         peel4d_stream **stream);
PEEL4D_API int32_t peel4d_decode_symbols(const uint8_t *data, int64_t bytes,
                                         const int32_t *table_of, int64_t count,
                                         const uint32_t *frequencies, const int32_t *sizes,
                                         int32_t table_count, int32_t bits, int32_t *symbols);

/* Two-dimensional Gaussians, a picture as a sum without order (include/peel/gaussian2d.h):
 * C(u) = sum color exp(-1/2 d^T (L L^T)^-1 d), d = u - position, cut where it cannot be seen.
 * position (count, 2), in pixels, (0, 0) the corner of the picture, pixel centres at + 0.5; cholesky
 * (count, 3) l11, l21, l22 of L in pixels; color (count, 3), any sign. Gaussians with anything that is
 * not finite or thinner than a thousandth of a pixel are not drawn. count at most 2^24.
 * Bit-identical for every number of threads. */

/* What part of the plane is drawn: pixels x .. x + width - 1, y .. y + height - 1. */
typedef struct peel4d_window {
  uint32_t size;
  int32_t x, y;          /* -2^20 .. 2^20 */
  int32_t width, height; /* 1 .. 32767, together at most 2^28 */
  int32_t threads;       /* as in peel4d_settings */
} peel4d_window;

/* rgb (height, width, 3), not clamped, and bytes of the same shape, clamped to [0, 1] x 255 and
 * rounded; one of them may be null. */
PEEL4D_API int32_t peel4d_gaussians_draw(const peel4d_window *window, int64_t count,
                                         const float *position, const float *cholesky,
                                         const float *color, float *rgb, uint8_t *bytes);

/* Gradients, shaped like the inputs, of a scalar L given dL/drgb (height, width, 3). */
PEEL4D_API int32_t peel4d_gaussians_backward(const peel4d_window *window, int64_t count,
                                             const float *position, const float *cholesky,
                                             const float *color, const float *d_rgb,
                                             float *d_position, float *d_cholesky,
                                             float *d_color);

/* Both at once for the mean squared error of the picture, clamped to [0, 1], from target (height,
 * width, 3), whose rows are `stride` bytes apart. The clamp passes its gradient on as if it were not
 * there, so that what shines too brightly finds its way back. */
PEEL4D_API int32_t peel4d_gaussians_fit(const peel4d_window *window, int64_t count,
                                        const float *position, const float *cholesky,
                                        const float *color, const uint8_t *target, int64_t stride,
                                        float *d_position, float *d_cholesky, float *d_color,
                                        double *error);

/* What training compares a picture with. All images (height, width, ...). */
typedef struct peel4d_truth {
  uint32_t size;
  int32_t width, height; /* pixels; times samples each 1 .. 32767, together at most 2^28 */
  int32_t samples;       /* 1 .. 8: rgba has so many per pixel along each axis, their mean counts */
  int32_t threads;       /* as in peel4d_settings */
  float mask_weight, dssim_weight; /* >= 0, of the losses beside the colours' mean square */
  uint32_t reserved;               /* 0 */
  double pixels;                   /* of the region, > 0 */
  double x, dx, y, dy; /* tangents of the angle to the optical axis: x + i dx in column i */
  const uint8_t *rgb, *background; /* (3): what the camera saw, and what is behind the points */
  const uint8_t *region; /* 1 where colours count */
  const uint8_t *mask;   /* 1 on the subject, or null: no mask loss */
  const uint8_t *known;  /* 1 where the mask is believed, or null: everywhere */
} peel4d_truth;

/* What the camera makes of a colour: (1 + r^2 v_0 + r^4 v_1) (gain colour + offset alpha), by channel. */
typedef struct peel4d_tone {
  uint32_t size;
  float gain[3], offset[3], vignetting[6]; /* (2, 3) */
} peel4d_tone;

/* error: mean square of picture - rgb over the region, picture = tone(colour) + (1 - alpha)
 * background. loss: error + mask_weight (1 - soft intersection over union of alpha and mask) +
 * dssim_weight (1 - SSIM)/2 averaged over the region, with windows of 7 x 7 that end at the image's
 * edges; outside the region the picture counts as true. d_rgba: dloss/drgba; rgba and d_rgba
 * (height samples, width samples, 4). d_tone: null, or receives the gradient. Bit-identical for every
 * number of threads, which share up to 256 MB that the calling thread keeps. */
PEEL4D_API int32_t peel4d_picture_loss(const peel4d_truth *truth, const float *rgba,
                                       const peel4d_tone *tone, float *d_rgba,
                                       peel4d_tone *d_tone, double *loss, double *error);

#ifdef __cplusplus
}
#endif

#endif
