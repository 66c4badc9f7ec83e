// SPDX-License-Identifier: GPL-3.0-or-later
// Compiled once per instruction set: -DPEEL_ISA=baseline, and -DPEEL_ISA=avx2 -mavx2 -mfma.
//
// Only functions with internal linkage are called from here (no templates of the standard library):
// anything the linker could share with other files might drag AVX2 into them.
#include "kernels.h"

#define PEEL_STRING_(x) #x
#define PEEL_STRING(x) PEEL_STRING_(x)

#include "kernels_points.h"
#include "kernels_tiles.h"

namespace peel {
namespace PEEL_ISA {

extern const Kernels kernels = {
    PEEL_STRING(PEEL_ISA), project_points, forward_tile, backward_tile, backward_points, sh_colors,
};

}  // namespace PEEL_ISA
}  // namespace peel
