"""Numeric tolerances of the whole suite: each measured before it was written, each with its reason."""

# Logits against the official code's, fp32 both: fp32 differs from fp64 by 9e-5, this network from the oracle by 7e-5.
ORACLE_LOGITS = 5e-4
# Deformable convolution in fp64 against a loop over pixels in fp64: only the order of sums differs (4e-15 seen).
DEFORM_CONV_FP64 = 1e-12
# The same in fp32 with outputs of deviation 1 to 5: 7e-6 seen.
DEFORM_CONV_FP32 = 1e-4
# A batch against its images one by one, on logits: other chunk and matrix sizes round differently (2e-5 seen).
BATCH_LOGITS = 2e-4
# A folded network against the unfolded one, both in fp64, on logits of deviation 1 to 2: only rounding is left.
FOLDED_LOGITS_FP64 = 1e-10
# Normalised colours, up to 2.6, by one multiplication and addition instead of three operations: 5e-7 seen.
NORMALISED = 2e-6
# Pillow's 8-bit fixed-point bilinear filter, which rounds after each axis, against torch's in float: 1.003 levels seen.
ANTIALIASED_LEVELS = 1.05
# Alpha of an exported graph in ONNX Runtime against the network in fp64: 5e-5 seen (seeded weights, white noise).
EXPORT_ALPHA = 1e-4
# A batch in ONNX Runtime against its images one by one, on alpha: no difference seen; other CPUs may split otherwise.
BATCH_ALPHA = 1e-5
# The tiny convolution model in ONNX Runtime, fp32, against numpy in fp64, on alpha: 2.4e-7 seen.
ORT_TINY = 2e-6
# Procedural photographs before the camera against F a + B (1 - a) in fp64: fp32 rounding (1.5e-7 seen).
COMPOSITE_IDENTITY = 1e-6
# Coverage of one pixel on a grid of 4 x 4 samples, whose polygons include the samples they touch: one column of four.
PIXEL_COVERAGE = 0.26
# Mean difference of one scene's matte at two sizes: strands are whole samples wide at each.
COVERAGE_SCALE = 0.02
# Layers in fp32 composed in two orders: 1.2e-7 seen.
LAYER_IDENTITY = 1e-6
# Held-out photographs and mattes against pinned ones, in levels of 255: 0 here; other processors round sums otherwise,
# which may move single pixels by a level, and what a JPEG makes of that.
HELD_OUT_PHOTOGRAPH = 0.05
HELD_OUT_ALPHA = 1
# Images put together alone and in a batch, in levels of 255 on average: a sum that rounds otherwise may move a
# coefficient of a JPEG by a step.
PHOTOGRAPH_ACROSS_DEVICES = 0.05
# Their mattes.
RECOMPOSED_ALPHA = 1e-5
# The same on a GPU, whose bilinear interpolation takes its fractions from other roundings; not yet measured on one.
COVERAGE_ACROSS_DEVICES = 2e-3
# Our JPEG against libjpeg's, which rounds in between, in levels of 255: 1.5 seen where the file loses 3 to 11.
JPEG_LEVELS = 2.0
# A batch's Gaussian blur against OpenCV's with a kernel of another length.
BATCHED_BLUR = 2e-4
# Loss terms in fp32 against hand-worked values and an explicit convolution (2e-7 seen).
LOSS_VALUE = 1e-5
# The lean training network against the plain one in fp64: only the order of sums differs.
LEAN_LOGITS = 1e-10
# A stencil that reads out one feature against torch's bilinear interpolation of values of deviation 1, in fp32.
CRM_BILINEAR = 1e-5
# Logits of the implicit decoder, of deviation 1, against other orders of its sums in fp32 or fp64.
CRM_POINTS = 1e-4
# Alpha of a tile's inner part against the whole image's.
CRM_TILES = 1e-5
# What the network sees of a JPEG decoded at 1/2 to 1/8, against a whole decode, in levels of 255: mean 0.86 and
# worst 12 seen, where the reduced size is exactly twice the canvas; half of that elsewhere.
SCALED_DECODE_MEAN_LEVELS = 1.0
SCALED_DECODE_MAX_LEVELS = 14
# The shipped matte model on held-out procedural photographs of a clear subject, the aims of issue 2: 0.048 and 0.862 on
# 200 of them.
DEFAULT_MODEL_MAE = 0.06
DEFAULT_MODEL_IOU = 0.85
# A decomposed deformable convolution in fp16 against the reference in fp32, relative, 256 to 512 pixels from the
# origin: features and weights round (3e-4 seen); coordinates in fp16 would cost 3e-2.
FAR_COORDINATES_FP16 = 1e-3
# The tiny network in mixed half precision against fp32, on logits of deviation 1.
HALF_LOGITS = 5e-2
# Two convolutions emulated in half precision against torch's own, on values up to 2: the last bit.
HALF_EMULATION = 2e-3
# Alpha of half-precision graphs in ONNX Runtime on the CPU against the network in fp64, as DESIGN.md section 3 has it.
HALF_ALPHA_MAX = 5e-3
HALF_ALPHA_MEAN = 5e-4
# rembg's mask of our bare network against the same steps around the torch network, in levels of 255: one level where
# the truncation to 8 bits falls on the other side, and what LANCZOS makes of it.
REMBG_LEVELS = 2
# Alpha of an adopted bare network against that of the direct export: where the normalisation rounds (1e-5 seen).
ADOPTED_ALPHA = 1e-4
# Our bilinear windows against OpenCV's resize of the whole, both fp32 on [0, 1]: 1.2e-7 seen.
RESAMPLED = 1e-6
# Refined in tiles against in one tile, as DESIGN.md section 5 has it (the aim is 1e-5; 2e-7 seen).
TILED_ALPHA = 1e-5
# Metrics in fp32 against plain references in fp64, relative: 1e-6 seen.
QUALITY_RELATIVE = 1e-5
# S, weighted F and E against pysodmetrics, whose figures are written with six digits.
PEER_METRICS = 2e-6
# The disc of reference/refinement.md A.7, whose figures are written with three digits: how a pixel on the rim is drawn
# is not said there.
DISK_TABLE = 2e-3
# SAD in the band after refinement, as a share of that of upsampling: 0.41 seen on easy colours at 2048.
REFINED_BAND_SAD = 0.7
# Halo of a re-composed cutout with estimated colours, as a share of that with the photograph's own: 0.07 to 0.31 seen,
# the most where no strand is opaque.
FOREGROUND_HALO = 0.35
# Its mean error in levels beyond that of PyMatting's solver: 0.9 more seen, and 10 where hardly anything is opaque.
FOREGROUND_PEER = 1.5
FOREGROUND_PEER_FAINT = 12.0
# SSIM of every window against scikit-image's, both fp64: the order of the sums (2e-15 seen).
SSIM_PEER = 1e-12
# Our fused kernels in fp32 against the plain modules in fp32, outputs of deviation 1 to 5: 8e-6 seen, interpreted.
FUSED_FP32 = 1e-4
# The same in fp16, with inputs rounded before: the features are rounded once more after they were sampled, and so is
# the output.
FUSED_FP16 = 1e-2
# Layer normalisation beside a channel of 3e5, in fp32: the order of its sums.
FUSED_NORM = 1e-4
# A network on fused kernels against the plain one, both in fp32, on logits of deviation 2: 8e-6 seen, interpreted.
FUSED_LOGITS = 2e-4
# A fused deformable convolution in fp16 against fp64, relative, with inputs rounded before: emulated 3e-4
# (reference/deform_conv.md, section 3); on a GPU not yet measured.
FUSED_FP16_RELATIVE = 1e-3
# The nearest rotation's derivative, whose system is made regular by 1e-7, relative.
NEAREST_ROTATION = 1e-4
# A matte at image size, in torch against OpenCV, whose weights are rounded: 3e-5 seen from 1024 to 1500 pixels; a
# hundredth of a level of 255.
FINISHED_ALPHA = 4e-5
# Gradients of three accumulated batches against those of one, as a share of the largest: the order of the sums.
ACCUMULATED_GRADIENT = 1e-5
