// SPDX-License-Identifier: GPL-3.0-or-later
// How far a picture is from what a camera saw, and the derivative of that.
#pragma once

#include "kernels.h"

namespace peel {

struct PictureLoss {
  double loss, error;  // error: the mean squared difference of the colours, a part of the loss
  double tone[12];
};

// task: its color_weight, unlike_weight, mask_inside and mask_outside are found here. pixels: of the
// region. Writes all of task.d_rgba.
PictureLoss picture_loss(const Kernels&, PictureTask task, double pixels, double mask_weight,
                         int threads);

}  // namespace peel
