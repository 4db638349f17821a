"""CRM: a refiner of mattes that looks at the image again, at any resolution (Shen et al., CVPR 2022, arXiv 2111.14482).

Written from the equations (`shared/reference/refinement.md`, section A); the official code, which is not free for
commercial use, was not used.
"""
