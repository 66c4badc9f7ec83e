// SPDX-License-Identifier: GPL-3.0-or-later
// Compiled once per instruction set, see setup.py: -DPEEL_ISA=baseline, avx2 or avx512.
//
// Only functions with internal linkage are called from here (no templates of the standard library):
// anything the linker could share with other files might drag AVX2 into them.
#include "kernels.h"

#define PEEL_STRING_(x) #x
#define PEEL_STRING(x) PEEL_STRING_(x)

#include "kernels_gaussians.h"
#include "kernels_picture.h"
#include "kernels_points.h"
#include "kernels_tiles.h"

namespace peel {
namespace PEEL_ISA {

extern const Kernels kernels = {
    PEEL_STRING(PEEL_ISA), project_points,  forward_tile,     clear_tile,
    backward_tile,         backward_points, finish_streaming, draw_gaussians,
    differentiate_gaussians, gaussian_bytes, gaussian_floats, read_gaussian_gradient,
    gaussian_residual,       picture_memory, mask_sums,       picture_band,
};

}  // namespace PEEL_ISA
}  // namespace peel
