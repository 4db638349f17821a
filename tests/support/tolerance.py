"""Numeric tolerances of the whole suite: each measured before it was written, each with its reason."""

# Logits against the official code's, fp32 both: fp32 differs from fp64 by 9e-5, this network from the oracle by 7e-5.
ORACLE_LOGITS = 5e-4
# Deformable convolution in fp64 against a loop over pixels in fp64: only the order of sums differs (4e-15 seen).
DEFORM_CONV_FP64 = 1e-12
# The same in fp32 with outputs of deviation 1 to 5: 7e-6 seen.
DEFORM_CONV_FP32 = 1e-4
# A batch against its images one by one, on logits: other chunk and matrix sizes round differently (2e-5 seen).
BATCH_LOGITS = 2e-4
